//! An agent as far as its certificate: it fetches what a netboot would, enrols, and opens sessions.

use metalcast_shared::{
    boot::BootConfig,
    codec::{self, LENGTH_BYTES, MAX_MESSAGE_BYTES},
    id::Mac,
    inventory::Fingerprint,
    to_agent::{EnrolReply, Standing, ToAgent},
    to_controller::{Enrol, Hello, Open},
    version::{ALPN, PROTOCOL, SERVER_NAME},
};
use quinn::Connection;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::de::DeserializeOwned;
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Agent {
    boot: BootConfig,
    key: rcgen::KeyPair,
    certificate: Vec<u8>,
}

impl Agent {
    /// Boots the machine with this address, and enrols it.
    pub fn enrol(http_port: u16, mac: Mac) -> Self {
        let script = get(http_port, &format!("/boot/{}.ipxe", mac.dashed()));
        let script = String::from_utf8(script).unwrap();
        let segment = script.split_whitespace().find(|word| word.ends_with("/segment.cpio"));
        let path = segment.unwrap_or_else(|| panic!("{script}")).splitn(4, '/').nth(3).unwrap();
        let segment = get(http_port, &format!("/{path}"));
        let start = segment.windows(8).position(|window| window == b"{\"boot\":").unwrap();
        let boot = serde_json::Deserializer::from_slice(&segment[start..]).into_iter();
        let boot: BootConfig = boot.into_iter().next().unwrap().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let fingerprint = Fingerprint { macs: vec![mac], ..Fingerprint::default() };
        let request = request.der().to_vec();
        let open = Open::Enrol(Enrol { token: boot.token.clone(), request, fingerprint });
        let mut agent = Self { boot, key, certificate: Vec::new() };
        match agent.ask(&open) {
            EnrolReply::Granted { certificate, .. } => agent.certificate = certificate,
            EnrolReply::Refused { reason } => panic!("{reason}"),
        }
        agent
    }

    /// Opens a session with the certificate; the node's name and standing.
    pub fn session(&self) -> (String, Standing) {
        let hello = Hello {
            protocol: PROTOCOL,
            agent: "test".into(),
            boot: self.boot.boot,
            task: None,
            phases: Vec::new(),
        };
        match self.ask(&Open::Session(hello)) {
            ToAgent::Welcome { name, standing } => (name, standing),
            other => panic!("{other:?}"),
        }
    }

    /// The first answer on a stream of a new connection.
    fn ask<T: DeserializeOwned>(&self, open: &Open) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let exchange = async {
                let connection = self.connect().await;
                let (mut send, mut receive) = connection.open_bi().await.unwrap();
                send.write_all(&codec::encode_framed(open)).await.unwrap();
                let mut length = [0; LENGTH_BYTES];
                receive.read_exact(&mut length).await.unwrap();
                let mut body = vec![0; codec::decode_length(length, MAX_MESSAGE_BYTES).unwrap()];
                receive.read_exact(&mut body).await.unwrap();
                codec::decode(&body, MAX_MESSAGE_BYTES).unwrap()
            };
            tokio::time::timeout(PATIENCE, exchange).await.expect("an answer")
        })
    }

    async fn connect(&self) -> Connection {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.boot.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match &self.certificate[..] {
            [] => tls.with_no_client_auth(),
            certificate => {
                let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
                tls.with_client_auth_cert(vec![certificate.to_vec().into()], key).unwrap()
            }
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        endpoint.connect(self.boot.controllers[0], SERVER_NAME).unwrap().await.unwrap()
    }
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    answer.split_off(body)
}
