//! Moves a file over QUIC with the windows, the receive buffer and the cryptography of controller and agent, and drops
//! it at the other end: the rate that a deployment could have if nothing else had to be done. `cargo xtask bench deploy`
//! runs both ends.
//!
//! ```text
//! bare_quic send ADDRESS:PORT CERTIFICATE FILE    writes the certificate, says "ready", serves one connection
//! bare_quic receive ADDRESS:PORT CERTIFICATE      prints "N bytes in M ns"
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use metalcast_shared::transfer::{SEND_WINDOW_BYTES, STREAM_WINDOW_BYTES, WINDOW_BYTES};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// As many as an agent has requests under way, each with its part of the file.
const STREAMS: usize = 4;
/// Handed to QUIC at a time.
const PIECE_BYTES: usize = 64 << 10;
const NAME: &str = "bare";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["send", address, certificate, file] => {
            send(address.parse()?, Path::new(certificate), Path::new(file)).await
        }
        ["receive", address, certificate] => {
            receive(address.parse()?, Path::new(certificate)).await
        }
        _ => bail!("send ADDRESS:PORT CERTIFICATE FILE, or receive ADDRESS:PORT CERTIFICATE"),
    }
}

async fn send(address: SocketAddr, certificate: &Path, file: &Path) -> Result<()> {
    let file = Bytes::from(std::fs::read(file).context("reading the file")?);
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let tls = rustls::ServerConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.send_window(SEND_WINDOW_BYTES);
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::server(config, address).context("listening")?;
    std::fs::write(certificate, made.cert.der()).context("writing the certificate")?;
    println!("ready");
    let connection = endpoint.accept().await.context("no connection")?.await?;
    for part in file.chunks(file.len().div_ceil(STREAMS).max(1)) {
        let (mut stream, part) = (connection.open_uni().await?, file.slice_ref(part));
        tokio::spawn(async move {
            let mut rest = part;
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE_BYTES));
                stream.write_chunk(piece).await?;
            }
            stream.finish()?;
            anyhow::Ok(())
        });
    }
    // Who receives knows when all has come.
    connection.closed().await;
    Ok(())
}

async fn receive(address: SocketAddr, certificate: &Path) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate).context("reading")?))?;
    let tls = rustls::ClientConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
    transport.receive_window(WINDOW_BYTES.into());
    config.transport_config(Arc::new(transport));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding")?;
    setsockopt(&socket, RcvBufForce, &(WINDOW_BYTES as usize)).context("asking for a buffer")?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
    let connection = endpoint.connect_with(config, address, NAME)?.await?;
    let start = Instant::now();
    let streams: Vec<_> = (0..STREAMS).map(|_| tokio::spawn(drain(connection.clone()))).collect();
    let mut bytes = 0;
    for stream in streams {
        bytes += stream.await??;
    }
    println!("{bytes} bytes in {} ns", start.elapsed().as_nanos());
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// Receives one stream and drops what comes; its length.
async fn drain(connection: Connection) -> Result<usize> {
    let mut stream = connection.accept_uni().await?;
    let mut bytes = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        bytes += chunk.bytes.len();
    }
    Ok(bytes)
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
