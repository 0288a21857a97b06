//! Two small requests of plain HTTP (RFC 9112), where a library would be most of the program.

use anyhow::{Context, bail, ensure};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// How long the controller may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Far above a boot script and a boot segment.
const MAX_BYTES: u64 = 1 << 20;

/// What is at `path`.
pub(super) fn get(server: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let ask = || -> anyhow::Result<Vec<u8>> {
        let mut stream = connect(server)?;
        // 1.0: the body comes as it is and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").context("asking")?;
        let mut answer = Vec::new();
        stream.take(MAX_BYTES + 1).read_to_end(&mut answer).context("reading the answer")?;
        ensure!(answer.len() as u64 <= MAX_BYTES, "more than {MAX_BYTES} bytes came");
        body(&answer).map(<[u8]>::to_vec)
    };
    ask().with_context(|| format!("fetching http://{server}{path}"))
}

/// The address of this machine that `server` sees.
pub(super) fn local_address(server: SocketAddr) -> anyhow::Result<Ipv4Addr> {
    let address = connect(server)?.local_addr().context("asking for our address")?;
    match address.ip() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{server} is reached by {address}, but IPv4 is needed"),
    }
}

fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, LIMIT)
        .with_context(|| format!("connecting to the controller at {server}"))?;
    stream.set_read_timeout(Some(LIMIT)).context("setting a time limit")?;
    stream.set_write_timeout(Some(LIMIT)).context("setting a time limit")?;
    Ok(stream)
}

fn body(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.context("the answer is not HTTP")? + 4);
    let status = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
    ensure!(status.split(' ').nth(1) == Some("200"), "the controller answered {status:?}");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nx\r\n\r\ny").unwrap(), b"x\r\n\r\ny");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\n").unwrap(), b"");
        let error = body(b"HTTP/1.0 404 Not Found\r\n\r\nno").unwrap_err().to_string();
        assert!(error.contains("404 Not Found"), "{error}");
        assert!(body(b"SSH-2.0").is_err());
    }
}
