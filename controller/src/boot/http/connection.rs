//! TCP connections: how many, from whom, and for how long they may do nothing.

use super::Peer;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections at a time. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one client at a time; further ones are closed. A boot program uses one or two.
const MAX_CONNECTIONS_PER_CLIENT: usize = 32;
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
    let clients = Clients::default();
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
                let Some(guest) = clients.admit(peer) else {
                    tracing::debug!(%peer, "HTTP connection closed: the client has too many");
                    continue;
                };
                let served = serve(stream, router.clone().layer(Extension(Peer(peer))));
                let shutdown = shutdown.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = served => {}
                    }
                    drop((slot, guest));
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

/// How many connections each client has.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<Ipv4Addr, usize>>>);

/// One connection of a client, counted until it is dropped.
struct Guest {
    clients: Clients,
    peer: Ipv4Addr,
}

impl Clients {
    fn admit(&self, peer: Ipv4Addr) -> Option<Guest> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= MAX_CONNECTIONS_PER_CLIENT {
            return None;
        }
        *count += 1;
        Some(Guest { clients: self.clone(), peer })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_all_connections() {
        let clients = Clients::default();
        let (greedy, other) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut guests: Vec<_> = (0..100).map_while(|_| clients.admit(greedy)).collect();
        assert_eq!(guests.len(), MAX_CONNECTIONS_PER_CLIENT);
        assert!(clients.admit(other).is_some());
        guests.pop();
        assert!(clients.admit(greedy).is_some());
        guests.clear();
        assert!(clients.0.lock().unwrap().is_empty(), "nothing is kept of clients that left");
    }
}
