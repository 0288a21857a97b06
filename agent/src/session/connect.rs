//! QUIC connections to the controller: TLS 1.3 with the CA of this boot, and with our certificate
//! once there is one.

use anyhow::Context;
use metalcast_shared::{
    boot::BootConfig,
    close,
    transfer::{STREAM_WINDOW_BYTES, UPLOAD_WINDOW_BYTES, WINDOW_BYTES},
    version::{ALPN, SERVER_NAME},
};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime,
    TransportConfig, TransportErrorCode, crypto::rustls::QuicClientConfig,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long the end of a connection may take to reach the controller.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// TLS alerts (RFC 8446, section 6) with which a server refuses a certificate; QUIC adds 0x100.
/// 51 is what a CA of the same name with another key gives.
const CERTIFICATE_ALERTS: [u8; 9] = [42, 43, 44, 45, 46, 48, 49, 51, 116];

/// Codes with which a controller closes: no certificate that names a node; superseded.
const UNWANTED_CODES: [u32; 2] = [close::NO_CERTIFICATE, close::SUPERSEDED];

/// Who we are, once the controller has said so.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    /// Ed25519 key that manifests are signed with.
    pub(super) manifest_key: Vec<u8>,
}

/// The controller will not have this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    pub(super) fn of_stranger() -> Self {
        Self("the controller's certificate is not of the CA of this boot".into())
    }
}

/// How long the controller may show a certificate that the CA of this boot did not sign. Its CA may
/// be a new one since then, which only a netboot brings; or a stranger has its address for a while.
pub(super) const STRANGER_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Since when no certificate of the controller's was good.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    since: Option<Instant>,
}

impl Strangers {
    /// A connection was made.
    pub(super) fn known(&mut self) {
        self.since = None;
    }

    /// Whether an error is that of a stranger's certificate, and the last that is waited for.
    pub(super) fn is_enough(&mut self, error: &anyhow::Error, limit: Duration) -> bool {
        let is_stranger = error.chain().any(|cause| match cause.downcast_ref() {
            Some(ConnectionError::TransportError(error)) => is_certificate_alert(error.code),
            _ => false,
        });
        is_stranger && self.since.get_or_insert_with(Instant::now).elapsed() >= limit
    }
}

fn is_certificate_alert(code: TransportErrorCode) -> bool {
    let alert = u64::from(code).checked_sub(0x100);
    alert.is_some_and(|code| CERTIFICATE_ALERTS.iter().any(|alert| u64::from(*alert) == code))
}

/// Makes connections.
pub(super) struct Connector {
    roots: Arc<RootCertStore>,
    /// The endpoint of the latest connection: it has to live until that one's end is sent.
    endpoint: Mutex<Option<Endpoint>>,
}

impl Connector {
    pub(super) fn new(boot: &BootConfig) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(boot.ca_pem.as_bytes()) {
            let certificate = certificate.context("reading the controller's CA")?;
            roots.add(certificate).context("taking the controller's CA")?;
        }
        anyhow::ensure!(!roots.is_empty(), "the boot configuration has no CA of the controller");
        anyhow::ensure!(!boot.controllers.is_empty(), "the boot configuration names no controller");
        Ok(Self { roots: Arc::new(roots), endpoint: Mutex::default() })
    }

    /// Connects; without an identity only enrolment is possible.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> anyhow::Result<Connection> {
        let local = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = socket(local).context("opening a UDP socket")?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)
            .context("setting up QUIC")?;
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint.clone());
        let connecting = endpoint.connect_with(self.client(identity)?, address, SERVER_NAME)?;
        let connection = tokio::time::timeout(HANDSHAKE_LIMIT, connecting)
            .await
            .map_err(|_| anyhow::anyhow!("no answer for {} s", HANDSHAKE_LIMIT.as_secs()))??;
        Ok(connection)
    }

    /// Ends a connection and waits until that is sent.
    pub(super) async fn close(&self, connection: &Connection, why: &str) {
        connection.close(close::DONE.into(), why.as_bytes());
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            let _ = tokio::time::timeout(CLOSE_LIMIT, endpoint.wait_idle()).await;
        }
    }

    fn client(&self, identity: Option<&Identity>) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots.clone());
        let mut tls = match identity {
            Some(identity) => builder
                .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
                .context("using our certificate")?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE_LIMIT)?));
        transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
        transport.receive_window(WINDOW_BYTES.into());
        transport.send_window(UPLOAD_WINDOW_BYTES);
        // The controller opens no streams.
        transport.max_concurrent_bidi_streams(0u32.into());
        transport.max_concurrent_uni_streams(0u32.into());
        client.transport_config(Arc::new(transport));
        Ok(client)
    }
}

/// A socket that holds all that may be under way to us: while the processors are busy with what came before, nothing is
/// lost. Beyond the system's own limit that is root's right.
fn socket(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    if let Err(error) = setsockopt(&socket, RcvBufForce, &(WINDOW_BYTES as usize)) {
        tracing::debug!("the socket keeps its small buffer: {error}");
    }
    Ok(socket)
}

/// Whether an error says that the controller refuses our certificate, which no repetition mends.
pub(super) fn refusal(error: &anyhow::Error) -> Option<Refusal> {
    error.chain().find_map(|cause| {
        let code = match cause.downcast_ref::<ConnectionError>()? {
            ConnectionError::ConnectionClosed(close) => close.error_code,
            // Ours of the controller's certificate: see Strangers.
            ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => return None,
        };
        is_certificate_alert(code)
            .then(|| Refusal(format!("the controller refuses our certificate ({cause})")))
    })
}

/// Whether the controller closed the connection because it knows no such node, or another session of
/// it.
pub(super) fn is_unwanted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<ConnectionError>() {
        Some(ConnectionError::ApplicationClosed(close)) => {
            let code = close.error_code.into_inner();
            UNWANTED_CODES.iter().any(|unwanted| u64::from(*unwanted) == code)
        }
        _ => false,
    })
}
