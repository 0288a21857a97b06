//! TCP connections: how many, and for how long they may do nothing.

use super::Peer;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at a time. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// A request's head has to come within this time, also the next one on a connection kept open.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// A client that acknowledges nothing for this time, or keeps its window shut, is gone (tcp(7),
/// TCP_USER_TIMEOUT). Boot programs write what they get to memory and never pause so long.
const STALL: Duration = Duration::from_secs(60);
/// Pause after an error of accept(2), which is about descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until `shutdown`.
pub async fn accept(
    listener: TcpListener,
    router: &Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.expect("it is never closed");
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = match peer.ip() {
                    IpAddr::V4(ip) => ip,
                    IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                };
                let served = serve(stream, router.clone().layer(Extension(Peer(peer))));
                let shutdown = shutdown.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = served => {}
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("HTTP connection not accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn serve(stream: TcpStream, router: Router) {
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(STALL));
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!("HTTP connection ended: {error}");
    }
}
