//! The driver of the DHCP client: socket, clock and interface for the protocol in
//! `metalcast_netboot::dhcp::client`. A thread runs it for as long as the machine runs.

use super::console;
use anyhow::{Context, Result, bail};
use metalcast_netboot::dhcp::client::{Client, Config, Event, Lease};
use metalcast_netboot::frame;
use metalcast_shared::id::Mac;
use metalcast_sys::{link, packet::PacketSocket};
use std::net::Ipv4Addr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// For the first address. A switch port that forwards late costs up to 90 s, a busy server a few more.
const FIRST_LEASE_LIMIT: Duration = Duration::from_secs(180);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// The longest sleep of the thread; the client's own times are shorter while it looks for a server.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// After the socket failed, for instance because the interface is down.
const AFTER_ERROR: Duration = Duration::from_secs(1);
const CLIENT_PORT: u16 = 68;

/// Starts looking for an address for `nic` and waits for the first one. `seed` differs between boots
/// and machines.
pub(super) fn start(nic: &str, mac: Mac, seed: u64) -> Result<Lease> {
    let socket = PacketSocket::open(nic, CLIENT_PORT)?;
    let (bound, first) = channel();
    let mut driver = Driver { nic: nic.to_owned(), socket, applied: None, bound: Some(bound) };
    std::thread::Builder::new()
        .name("dhcp".into())
        .spawn(move || {
            let config = Config { mac, seed, hostname: None };
            driver.run(Client::new(config, Instant::now()))
        })
        .context("starting the DHCP thread")?;

    let started = Instant::now();
    loop {
        match first.recv_timeout(SAY_EVERY) {
            Ok(lease) => return Ok(lease),
            Err(RecvTimeoutError::Disconnected) => bail!("the DHCP thread has ended"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let waited = started.elapsed();
        if waited > FIRST_LEASE_LIMIT {
            bail!("no DHCP server gave {nic} ({mac}) an address within {} s", waited.as_secs());
        }
        console::line(&format!("waiting for a DHCP answer on {nic} ({} s)", waited.as_secs()));
    }
}

struct Driver {
    nic: String,
    socket: PacketSocket,
    /// The lease that the interface has now.
    applied: Option<Lease>,
    /// Takes the first lease, then is gone.
    bound: Option<Sender<Lease>>,
}

impl Driver {
    fn run(&mut self, mut client: Client) -> ! {
        let mut buffer = [0; 2048];
        loop {
            let step = self.step(&mut client, &mut buffer);
            if let Err(error) = step {
                console::line(&format!("dhcp: {error:#}"));
                std::thread::sleep(AFTER_ERROR);
            }
            client.handle_timeout(Instant::now());
        }
    }

    /// Sends and applies what the client has, then waits for a packet or the client's next time.
    fn step(&mut self, client: &mut Client, buffer: &mut [u8]) -> Result<()> {
        while let Some(payload) = client.poll_transmit() {
            self.socket.send_broadcast(&frame::build(&payload)?)?;
        }
        while let Some(event) = client.poll_event() {
            self.apply(event)?;
        }
        let wait = client.poll_timeout().map_or(LONGEST_WAIT, |(at, _)| {
            at.saturating_duration_since(Instant::now()).min(LONGEST_WAIT)
        });
        if let Some(len) = self.socket.receive(buffer, wait)?
            // Others' packets to port 68 are common on a broadcast network.
            && let Ok(payload) = frame::parse(&buffer[..len])
        {
            client.handle_input(Instant::now(), payload);
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Bound(lease) => {
                let place = |lease: &Lease| (lease.address, lease.prefix_len, lease.router);
                // Setting the same address again would drop the routes of open connections.
                if self.applied.as_ref().map(place) != Some(place(&lease)) {
                    link::set_address(&self.nic, lease.address, lease.prefix_len)?;
                    console::line(&describe(&self.nic, &lease));
                    // A server may name a router outside of the subnet. The controller may still be
                    // near, so this is no reason to be without an address.
                    if let Some(router) = lease.router
                        && let Err(error) = link::add_default_route(&self.nic, router)
                    {
                        console::line(&format!("dhcp: {:#}", anyhow::Error::new(error)));
                    }
                }
                if let Some(bound) = self.bound.take() {
                    // Nobody waits any more after the time limit.
                    let _ = bound.send(lease.clone());
                }
                self.applied = Some(lease);
            }
            Event::Lost { reason } => {
                console::line(&format!("{} has lost its address: {reason}", self.nic));
                link::set_address(&self.nic, Ipv4Addr::UNSPECIFIED, 0)?;
                self.applied = None;
            }
        }
        Ok(())
    }
}

fn describe(nic: &str, lease: &Lease) -> String {
    let Lease { address, prefix_len, router, server, lease_secs, .. } = lease;
    let router = router.map_or("no router".to_owned(), |router| format!("router {router}"));
    format!("{nic} has {address}/{prefix_len}, {router}, from {server} for {lease_secs} s")
}

#[cfg(test)]
mod tests;
