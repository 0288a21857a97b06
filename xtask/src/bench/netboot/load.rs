//! A load of DHCP clients: a rack that powers on. Each takes an address with DISCOVER and REQUEST; when it has one, the
//! next one begins. Sent and read by one socket on the clients' host.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use metalcast_netboot::dhcp::wire::{self, Header, Op, Writer, code};
use metalcast_tests::namespace::Namespace;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

/// Machines that ask at the same time.
const AT_ONCE: usize = 16;
/// Addresses taken in one measurement.
const EXCHANGES: u32 = 20_000;
/// Machines there are; the labs have a hundred addresses.
const MACHINES: u32 = 90;
/// A client repeats itself when it has waited this long.
const REPEAT: Duration = Duration::from_secs(1);
/// A measurement takes no longer.
const DEADLINE: Duration = Duration::from_secs(60);

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// A client that waits for an answer.
struct Client {
    /// Which exchange it is in, also its transaction number.
    exchange: u32,
    asked: Vec<u8>,
    at: Instant,
}

/// Takes addresses from the server on the clients' network; offers and acknowledgements a second.
///
/// # Errors
/// When nothing is answered, or an address is refused.
pub fn answers_per_second(host: &Namespace) -> Result<f64> {
    let namespace = File::open(format!("/proc/{}/ns/net", host.pid()))
        .context("opening the clients' namespace")?;
    // A thread of its own, since it cannot leave the namespace again.
    std::thread::scope(|scope| {
        let load = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).context("binding UDP 68")?;
            setsockopt(&socket, BindToDevice, &"eth0".into()).context("binding to eth0")?;
            socket.set_broadcast(true).context("asking for broadcasts")?;
            socket.set_read_timeout(Some(REPEAT / 4)).context("setting a time limit")?;
            take(&socket)
        });
        load.join().expect("the load does not panic")
    })
}

fn take(socket: &UdpSocket) -> Result<f64> {
    let start = Instant::now();
    let (mut next, mut done) = (0, 0);
    let mut clients: Vec<Client> = Vec::new();
    let mut buffer = [0; wire::MAX_LEN];
    while done < EXCHANGES {
        ensure!(start.elapsed() < DEADLINE, "{done} of {EXCHANGES} addresses within {DEADLINE:?}");
        while clients.len() < AT_ONCE && next < EXCHANGES {
            clients.push(Client::ask(socket, next, message(next, DISCOVER, None))?);
            next += 1;
        }
        for client in clients.iter_mut().filter(|client| client.at.elapsed() > REPEAT) {
            *client = Client::ask(socket, client.exchange, client.asked.clone())?;
        }
        let bytes = match socket.recv(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("waiting for answers"),
        };
        let (header, options) = wire::parse(&buffer[..bytes]).context("reading an answer")?;
        let Some(place) = clients.iter().position(|it| it.exchange == header.xid) else {
            continue;
        };
        let server = options.address(code::SERVER_ID).context("an answer without a server")?;
        match options.fixed::<1>(code::MESSAGE_TYPE) {
            Some([OFFER]) => {
                let taken = Some((header.yiaddr, server));
                let asked = message(header.xid, REQUEST, taken);
                clients[place] = Client::ask(socket, header.xid, asked)?;
            }
            Some([ACK]) => {
                clients.swap_remove(place);
                done += 1;
            }
            other => anyhow::bail!("an answer of type {other:?}"),
        }
    }
    Ok(f64::from(2 * EXCHANGES) / start.elapsed().as_secs_f64())
}

impl Client {
    fn ask(socket: &UdpSocket, exchange: u32, asked: Vec<u8>) -> Result<Self> {
        socket.send_to(&asked, (Ipv4Addr::BROADCAST, 67)).context("asking")?;
        Ok(Self { exchange, asked, at: Instant::now() })
    }
}

/// As a boot ROM asks; `taken` is an offered address and who offered it.
fn message(exchange: u32, kind: u8, taken: Option<(Ipv4Addr, Ipv4Addr)>) -> Vec<u8> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    let [.., high, low] = (exchange % MACHINES).to_be_bytes();
    let mut out = Writer::new(&Header {
        op: Op::Request,
        hops: 0,
        xid: exchange,
        secs: 0,
        // The clients' host has none of the addresses.
        broadcast: true,
        ciaddr: nobody,
        yiaddr: nobody,
        siaddr: nobody,
        giaddr: nobody,
        chaddr: [2, 0, 0, 0, high, low],
        sname: Vec::new(),
        file: Vec::new(),
    });
    out.put(code::MESSAGE_TYPE, &[kind]);
    out.put(code::PARAMETER_LIST, &[1, 3, 6, 43, 60, 66, 67]);
    out.put(code::VENDOR_CLASS, b"PXEClient:Arch:00000:UNDI:002001");
    if let Some((address, server)) = taken {
        out.put_addresses(code::REQUESTED_IP, &[address]);
        out.put_addresses(code::SERVER_ID, &[server]);
    }
    out.finish()
}
