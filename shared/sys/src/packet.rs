//! A packet(7) socket for IPv4 datagrams on one interface, below the kernel's own IP layer: what
//! DHCP needs while the interface has no address.
//!
//! The Ethernet header is the kernel's; IP and UDP headers are the caller's. A filter in the kernel
//! passes only UDP to one port, so the socket costs nothing while gigabytes go by.

use crate::{Result, during, link};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const ETH_P_IP: u16 = 0x0800;
/// An open packet socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: String,
    index: libc::c_int,
}

impl PacketSocket {
    /// Opens a socket on `interface` that receives IPv4 UDP datagrams to `udp_port`.
    pub fn open(interface: &str, udp_port: u16) -> Result<Self> {
        let index = link::index(interface)?;
        let index = libc::c_int::try_from(index)
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
            .map_err(during(|| format!("numbering interface {interface}")))?;
        let open = || -> io::Result<OwnedFd> {
            // Protocol 0: nothing is received before the filter is in place and bind() names one.
            // SAFETY: socket(2) takes no pointers.
            let fd =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is fresh and owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            attach_filter(&fd, udp_port)?;
            let address = link_address(index, [0; 6]);
            // SAFETY: `address` is a sockaddr_ll and its true size is given.
            let rc = unsafe {
                libc::bind(
                    fd.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_ll>() as libc::socklen_t,
                )
            };
            if rc == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
        };
        let fd = open().map_err(during(|| format!("opening a packet socket on {interface}")))?;
        Ok(Self { fd, interface: interface.to_owned(), index })
    }

    /// Sends one IPv4 datagram, header included, to the Ethernet broadcast address.
    pub fn send_broadcast(&self, datagram: &[u8]) -> Result<()> {
        let address = link_address(self.index, [0xff; 6]);
        // SAFETY: buffer and address are valid for the lengths given with them.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                datagram.as_ptr().cast(),
                datagram.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            let failed = || format!("sending a broadcast on {}", self.interface);
            return Err(io::Error::last_os_error()).map_err(during(failed));
        }
        Ok(())
    }

    /// Waits for a datagram, at most `timeout`; returns how much of `buffer` it fills, IP header
    /// first, or `None` when none came. What does not fit is cut off.
    ///
    /// Over veth pairs and virtio the sender may have left the UDP checksum to hardware that the
    /// datagram never passed, so that it is not complete.
    pub fn receive(&self, buffer: &mut [u8], timeout: Duration) -> Result<Option<usize>> {
        self.try_receive(buffer, timeout)
            .map_err(during(|| format!("receiving on {}", self.interface)))
    }

    fn try_receive(&self, buffer: &mut [u8], timeout: Duration) -> io::Result<Option<usize>> {
        if !crate::uevent::readable(&self.fd, timeout)? {
            return Ok(None);
        }
        // SAFETY: the buffer is valid for its length.
        let len = unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(len) {
            Ok(len) => Ok(Some(len.min(buffer.len()))),
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {
                    Ok(None)
                }
                error => Err(error),
            },
        }
    }
}

fn link_address(index: libc::c_int, mac: [u8; 6]) -> libc::sockaddr_ll {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&mac);
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETH_P_IP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    }
}

/// Classic BPF (networking/filter.rst): protocol 17, no fragment but the first, destination port.
fn attach_filter(fd: &OwnedFd, udp_port: u16) -> io::Result<()> {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 9, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 17, 0, 6),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 6, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0x1fff, 4, 0),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 2, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::from(udp_port), 0, 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` is a sock_fprog of the size given, and its pointer leads to `len` instructions
    // that outlive the call; the kernel copies them.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::process::Command;
    use std::time::Instant;

    /// A UDP datagram without checksum, from 0.0.0.0:68 to 255.255.255.255:`port`.
    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let total = (28 + payload.len()) as u16;
        let mut bytes = vec![0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
        let sum: u32 =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(68_u16.to_be_bytes());
        bytes.extend(port.to_be_bytes());
        bytes.extend((8 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn broadcasts_reach_the_other_end_and_only_the_port_asked_for() {
        std::thread::spawn(|| {
            crate::netns::enter_new().unwrap();
            let ip = |args: &str| {
                assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
            };
            ip("link add one type veth peer name two");
            ip("link set one up");
            ip("link set two up");
            let near = PacketSocket::open("one", 68).unwrap();
            let far = PacketSocket::open("two", 67).unwrap();
            let mut buffer = [0; 600];
            let wait = Duration::from_secs(5);

            // The veth pair drops what is sent before the kernel has taken note of its carrier.
            let deadline = Instant::now() + wait;
            let got = loop {
                near.send_broadcast(&datagram(9, b"other port")).unwrap();
                near.send_broadcast(&datagram(67, b"hello")).unwrap();
                if let Some(got) = far.receive(&mut buffer, Duration::from_millis(100)).unwrap() {
                    break got;
                }
                assert!(Instant::now() < deadline, "nothing came in {wait:?}");
            };
            assert_eq!(&buffer[..got], datagram(67, b"hello"));
            assert_eq!(far.receive(&mut buffer, Duration::from_millis(20)).unwrap(), None);

            // From a real UDP socket, as a DHCP server would answer.
            link::set_address("two", Ipv4Addr::new(10, 0, 0, 2), 24).unwrap();
            let socket = UdpSocket::bind("10.0.0.2:67").unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"offer", "10.0.0.255:68").unwrap();
            let got = near.receive(&mut buffer, wait).unwrap().unwrap();
            assert_eq!(&buffer[28..got], b"offer");
        })
        .join()
        .unwrap();
        assert!(PacketSocket::open("none", 68).is_err());
    }
}
