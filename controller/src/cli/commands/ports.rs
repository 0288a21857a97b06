//! `metalcast ports`: opens each port for a moment, as the controller would.

use crate::{
    cli::{
        client::Client,
        exit::Exit,
        output::{Printer, Tone, table},
    },
    config::{
        Config,
        ports::{At, Port, Protocol},
    },
};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4},
};

/// A port and whether it can be had.
#[derive(Serialize)]
struct Probed {
    #[serde(flatten)]
    port: Port,
    usable: bool,
    state: String,
}

pub(in crate::cli) async fn run(
    config: &Config,
    client: &Client,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let is_running = client.get::<serde_json::Value>("/status").await.is_ok();
    let probe = |port: Port| {
        let (usable, state) = state(&port, try_bind(&port), is_running);
        Probed { port, usable, state }
    };
    let ports: Vec<Probed> = config.ports().into_iter().map(probe).collect();
    printer.result(&ports, |ports| {
        let row = |Probed { port, usable, state }: &Probed| {
            let tone = match (usable, port.optional) {
                (true, _) => Tone::Good,
                (false, true) => Tone::Attention,
                (false, false) => Tone::Bad,
            };
            let number = format!("{}/{}", port.number, port.protocol);
            vec![number, port.at.to_string(), port.purpose.to_owned(), printer.paint(state, tone)]
        };
        table(&["PORT", "ON", "FOR", "STATE"], &ports.iter().map(row).collect::<Vec<_>>())
    });
    let is_good = ports.iter().all(|Probed { port, usable, .. }| *usable || port.optional);
    Ok(if is_good { Exit::Ok } else { Exit::Conflict })
}

fn try_bind(port: &Port) -> io::Result<()> {
    let kind = match port.protocol {
        Protocol::Udp => Type::DGRAM,
        Protocol::Tcp => Type::STREAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if port.protocol == Protocol::Tcp {
        // As every listener does: connections that linger are in nobody's way.
        socket.set_reuse_address(true)?;
    }
    let address = match &port.at {
        At::Address(address) => *address,
        At::Interface(name) => {
            socket.bind_device(Some(name.as_bytes()))?;
            Ipv4Addr::UNSPECIFIED
        }
    };
    socket.bind(&SocketAddrV4::new(address, port.number).into())
}

/// Whether the port can be had, and in words.
fn state(port: &Port, bound: io::Result<()>, is_running: bool) -> (bool, String) {
    let Err(error) = bound else { return (true, "free".to_owned()) };
    let letter = match port.protocol {
        Protocol::Udp => "u",
        Protocol::Tcp => "t",
    };
    let why = match error.kind() {
        ErrorKind::AddrInUse if is_running => {
            return (true, "in use, and a controller runs".to_owned());
        }
        ErrorKind::AddrInUse => {
            format!("taken: `ss -{letter}lpn sport = :{}` says by whom", port.number)
        }
        ErrorKind::AddrNotAvailable => {
            format!("no interface has {}: see `ip address`", port.at)
        }
        ErrorKind::PermissionDenied => {
            "needs root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW".to_owned()
        }
        _ => format!("cannot be opened on {}: {error}", port.at),
    };
    (false, why)
}
