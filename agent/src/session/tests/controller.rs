//! A controller just large enough for the tests: one CA, one image, behaviour to order.

use crate::session::wire;
use crate::task::tests::rig::TestImage;
use metalcast_shared::{
    as_left::AsLeft,
    close,
    codec::MAX_MESSAGE_BYTES,
    id::NodeId,
    manifest::Page,
    to_agent::{BundleReply, ChunkHeader, EnrolReply, PageReply, RecordReply, Standing, ToAgent},
    to_controller::{Enrol, Hello, Open, ToController},
    version::{ALPN, SERVER_NAME},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use rustls::{RootCertStore, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::mpsc;

/// In what it is not a good controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Behaviour {
    pub(super) refuse_enrolment: bool,
    pub(super) expired_certificates: bool,
    pub(super) other_manifest_key: bool,
    /// Closes every session as if the node had been removed.
    pub(super) unwanted: bool,
    /// Does not say by itself that the node is approved.
    pub(super) silent_standing: bool,
    /// Sends each frame spoiled once.
    pub(super) spoil_first: bool,
    /// Sends no frames at all.
    pub(super) silent: bool,
    /// Closes the connection after this many more frames, each time.
    pub(super) break_after: Vec<usize>,
    /// What it gives for any bundle of tools.
    pub(super) tools: Vec<u8>,
}

/// What came on session streams.
#[derive(Debug)]
pub(super) enum Seen {
    Hello(Hello),
    Message(ToController),
}

pub(super) struct Controller {
    pub(super) address: SocketAddr,
    pub(super) ca_pem: String,
    seen: mpsc::UnboundedReceiver<Seen>,
    orders: mpsc::UnboundedSender<ToAgent>,
    shared: Arc<Shared>,
}

struct Shared {
    image: Arc<TestImage>,
    behaviour: Behaviour,
    issuer: Issuer<'static, KeyPair>,
    seen: mpsc::UnboundedSender<Seen>,
    orders: tokio::sync::Mutex<mpsc::UnboundedReceiver<ToAgent>>,
    spoiled: Mutex<HashSet<u32>>,
    breaks: Mutex<Vec<usize>>,
    frames: AtomicUsize,
    enrolments: AtomicUsize,
}

impl Controller {
    pub(super) fn start(image: Arc<TestImage>, behaviour: Behaviour) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let ca_pem = ca.pem();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let issuer = Issuer::new(params, key);

        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![own.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let server =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap();

        let (seen_sender, seen) = mpsc::unbounded_channel();
        let (orders, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            image,
            breaks: Mutex::new(behaviour.break_after.clone()),
            behaviour,
            issuer,
            seen: seen_sender,
            orders: tokio::sync::Mutex::new(waiting),
            spoiled: Mutex::default(),
            frames: AtomicUsize::default(),
            enrolments: AtomicUsize::default(),
        });
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let shared = accepting.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        let (shared, connection) = (shared.clone(), connection.clone());
                        tokio::spawn(async move {
                            // The agent goes away when it likes.
                            let _ = shared.stream(&connection, send, receive).await;
                        });
                    }
                });
            }
        });
        Self { address, ca_pem, seen, orders, shared }
    }

    pub(super) fn tell(&self, message: ToAgent) {
        self.orders.send(message).unwrap();
    }

    pub(super) async fn next(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }

    pub(super) fn enrolments(&self) -> usize {
        self.shared.enrolments.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn stream(
        &self,
        connection: &Connection,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> anyhow::Result<()> {
        let known = connection.peer_identity().is_some();
        match wire::receive(&mut receive, MAX_MESSAGE_BYTES).await? {
            Open::Enrol(enrol) => {
                assert!(enrol.token == "abcd" && !enrol.fingerprint.macs.is_empty() && !known);
                wire::send(&mut send, &self.enrol(&enrol)).await?;
                send.finish()?;
                send.stopped().await?;
            }
            open => {
                assert!(known, "{open:?} without a certificate");
                self.known(connection, open, send, receive).await?;
            }
        }
        Ok(())
    }

    async fn known(
        &self,
        connection: &Connection,
        open: Open,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> anyhow::Result<()> {
        match open {
            Open::Session(_) if self.behaviour.unwanted => {
                connection.close(close::SUPERSEDED.into(), b"not to have a session");
            }
            Open::Session(hello) | Open::Golden(hello) => {
                return self.session(hello, send, receive).await;
            }
            Open::Page { page, .. } => {
                let bytes = self.image.pages[page as usize].clone();
                wire::send(&mut send, &PageReply::Page(bytes)).await?;
            }
            Open::Chunks { page, positions, .. } => {
                let page = self
                    .image
                    .partition()
                    .decode_page(page as usize, &self.image.pages[page as usize])?;
                self.chunks(connection, &page, &positions, &mut send).await?;
            }
            Open::Packed { .. } => {
                let tools = &self.behaviour.tools;
                let bytes = u32::try_from(tools.len()).unwrap();
                wire::send(&mut send, &BundleReply::File { bytes }).await?;
                send.write_all(tools).await?;
            }
            Open::Record { bytes, .. } => {
                let mut encoded = vec![0; bytes as usize];
                receive.read_exact(&mut encoded).await?;
                AsLeft::decode(&encoded)?;
                wire::send(&mut send, &RecordReply::Kept).await?;
            }
            // The controller's own tests serve them.
            Open::Enrol(_) | Open::Upload { .. } | Open::SideFile { .. } | Open::AsLeft { .. } => {
                unreachable!()
            }
        }
        send.finish()?;
        Ok(())
    }

    fn enrol(&self, enrol: &Enrol) -> EnrolReply {
        self.enrolments.fetch_add(1, Ordering::SeqCst);
        if self.behaviour.refuse_enrolment {
            return EnrolReply::Refused { reason: "token was used by another key".into() };
        }
        let request =
            CertificateSigningRequestParams::from_der(&enrol.request.clone().into()).unwrap();
        let mut params = CertificateParams::new(vec!["1.node.metalcast".to_owned()]).unwrap();
        if self.behaviour.expired_certificates {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&request.public_key, &self.issuer).unwrap();
        let manifest_key = match self.behaviour.other_manifest_key {
            true => vec![7; 32],
            false => self.image.key.clone(),
        };
        EnrolReply::Granted {
            node: NodeId(uuid::Uuid::from_u128(1)),
            certificate: certificate.der().to_vec(),
            manifest_key,
        }
    }

    async fn session(
        &self,
        hello: Hello,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> anyhow::Result<()> {
        let _ = self.seen.send(Seen::Hello(hello));
        if !self.behaviour.silent_standing {
            let (name, standing) = ("node1".into(), Standing::Approved);
            wire::send(&mut send, &ToAgent::Welcome { name, standing }).await?;
        }
        let mut orders = self.orders.lock().await;
        let incoming = async {
            loop {
                let message = match wire::receive(&mut receive, MAX_MESSAGE_BYTES).await {
                    Ok(message) => message,
                    Err(error) => return Err::<(), _>(error),
                };
                let _ = self.seen.send(Seen::Message(message));
            }
        };
        let outgoing = async {
            while let Some(order) = orders.recv().await {
                wire::send(&mut send, &order).await?;
            }
            Ok(())
        };
        tokio::select! { ended = incoming => ended, ended = outgoing => ended }
    }

    async fn chunks(
        &self,
        connection: &Connection,
        page: &Page,
        positions: &[u16],
        send: &mut SendStream,
    ) -> anyhow::Result<()> {
        if self.behaviour.silent {
            return std::future::pending().await;
        }
        for position in positions {
            let chunk = &page.chunks[usize::from(*position)];
            let mut frame = self.image.frames[&chunk.index].clone();
            if self.behaviour.spoil_first && self.spoiled.lock().unwrap().insert(chunk.index) {
                frame[0] ^= 1;
            }
            let header = ChunkHeader::Frame {
                index: chunk.index,
                bytes: chunk.frame_bytes,
                hash: chunk.frame_hash,
            };
            wire::send(send, &header).await?;
            send.write_all(&frame).await?;
            if self.is_time_to_break() {
                connection.close(5u32.into(), b"the test pulls the plug");
            }
        }
        Ok(())
    }

    fn is_time_to_break(&self) -> bool {
        let mut breaks = self.breaks.lock().unwrap();
        let frames = self.frames.fetch_add(1, Ordering::SeqCst) + 1;
        if breaks.first().is_some_and(|after| frames >= *after) {
            breaks.remove(0);
            self.frames.store(0, Ordering::SeqCst);
            return true;
        }
        false
    }
}
