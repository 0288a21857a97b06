//! Network interfaces: up, IPv4 address, default route (netdevice(7) ioctls), carrier (sysfs).
//!
//! IPv4 only, one address per interface: what a netbooted machine needs. No queries that sysfs
//! answers as well, except the carrier, which has a trap of its own.

use crate::{Result, during, ioctl};
use std::ffi::CString;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

/// struct ifreq of netdevice(7): the name, and a union of 24 bytes on 64-bit Linux.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    value: IfValue,
}

#[repr(C)]
union IfValue {
    address: SockAddrIn,
    flags: libc::c_short,
    whole: [u64; 3],
}

/// struct sockaddr_in; port and address in network order.
#[repr(C)]
#[derive(Clone, Copy)]
struct SockAddrIn {
    family: u16,
    port: u16,
    address: [u8; 4],
    zero: [u8; 8],
}

/// struct rtentry of linux/route.h, 64-bit layout.
#[repr(C)]
struct RtEntry {
    pad1: libc::c_ulong,
    destination: SockAddrIn,
    gateway: SockAddrIn,
    netmask: SockAddrIn,
    flags: u16,
    pad2: i16,
    pad3: libc::c_ulong,
    pad4: *mut libc::c_void,
    metric: i16,
    device: *mut libc::c_char,
    mtu: libc::c_ulong,
    window: libc::c_ulong,
    initial_rtt: u16,
}

const SIOCADDRT: u32 = 0x890b;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCSIFNETMASK: u32 = 0x891c;

/// The interface's number.
pub fn index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(during(|| format!("finding interface {name}")))
}

/// Switches the interface on. The link itself takes longer: see [`carrier`].
pub fn up(name: &str) -> Result<()> {
    let set = || -> io::Result<()> {
        let socket = control()?;
        let mut request = if_request(name)?;
        // SAFETY: SIOCGIFFLAGS takes a struct ifreq and writes its flags.
        unsafe { ioctl::by_address(&socket, SIOCGIFFLAGS, &mut request) }?;
        // SAFETY: the kernel has just written the flags; every bit pattern is a valid short.
        let flags = unsafe { request.value.flags };
        request.value.flags = flags | libc::IFF_UP as libc::c_short;
        // SAFETY: SIOCSIFFLAGS takes a struct ifreq and reads its flags.
        unsafe { ioctl::by_address(&socket, SIOCSIFFLAGS, &mut request) }?;
        Ok(())
    };
    set().map_err(during(|| format!("switching on {name}")))
}

/// Whether packets can pass: there is a carrier, and the kernel has taken note of it. Between the
/// two it drops what is sent, silently and for up to a second (`operstate` of
/// networking/operstates.rst). An interface that is switched off has no carrier: its `carrier` file
/// answers `EINVAL`, which is not an error here.
pub fn carrier(sys: &Path, name: &str) -> Result<bool> {
    let dir = sys.join("class/net").join(name);
    let read = |file: &str| match std::fs::read_to_string(dir.join(file)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(String::new()),
        other => other.map_err(during(|| format!("reading {}", dir.join(file).display()))),
    };
    // Drivers without link detection, and loopback, stay "unknown".
    let is_usable = |state: &str| state == "up" || state == "unknown";
    Ok(read("carrier")?.trim() == "1" && is_usable(read("operstate")?.trim()))
}

/// Sets the interface's one IPv4 address, with a prefix length of 0 to 32. Setting 0.0.0.0 takes
/// the address away.
pub fn set_address(name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
    let failed = || format!("setting {address}/{prefix} on {name}");
    let set = || -> io::Result<()> {
        let socket = control()?;
        let mut request = if_request(name)?;
        request.value.address = socket_address(address);
        // SAFETY: SIOCSIFADDR takes a struct ifreq and reads its address.
        unsafe { ioctl::by_address(&socket, SIOCSIFADDR, &mut request) }?;
        if address.is_unspecified() {
            return Ok(());
        }
        request.value.address = socket_address(netmask(prefix)?);
        // SAFETY: SIOCSIFNETMASK takes a struct ifreq and reads its address.
        unsafe { ioctl::by_address(&socket, SIOCSIFNETMASK, &mut request) }?;
        Ok(())
    };
    set().map_err(during(failed))
}

/// The interface's IPv4 address, if it has one.
pub fn address(name: &str) -> Result<Option<Ipv4Addr>> {
    let get = || -> io::Result<Option<Ipv4Addr>> {
        let mut request = if_request(name)?;
        // SAFETY: SIOCGIFADDR takes a struct ifreq and writes a struct sockaddr_in into it.
        match unsafe { ioctl::by_address(control()?, SIOCGIFADDR, &mut request) } {
            // SAFETY: every bit pattern is a valid SockAddrIn, and the union was zeroed first.
            Ok(_) => Ok(Some(Ipv4Addr::from(unsafe { request.value.address }.address))),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(None),
            Err(error) => Err(error),
        }
    };
    get().map_err(during(|| format!("reading the address of {name}")))
}

/// Makes `gateway`, reached through `name`, the way to everywhere else. A route that is already
/// there is fine.
pub fn add_default_route(name: &str, gateway: Ipv4Addr) -> Result<()> {
    match default_route(name, gateway) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map_err(during(|| format!("adding a default route by {gateway} on {name}"))),
    }
}

fn default_route(name: &str, gateway: Ipv4Addr) -> io::Result<()> {
    let device = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut route = RtEntry {
        pad1: 0,
        destination: socket_address(Ipv4Addr::UNSPECIFIED),
        gateway: socket_address(gateway),
        netmask: socket_address(Ipv4Addr::UNSPECIFIED),
        flags: libc::RTF_UP | libc::RTF_GATEWAY,
        pad2: 0,
        pad3: 0,
        pad4: std::ptr::null_mut(),
        metric: 0,
        device: device.as_ptr().cast_mut(),
        mtu: 0,
        window: 0,
        initial_rtt: 0,
    };
    // SAFETY: SIOCADDRT takes a struct rtentry; `device` lives through the call and the kernel
    // only reads the name it points to.
    unsafe { ioctl::by_address(control()?, SIOCADDRT, &mut route) }?;
    Ok(())
}

/// Any IPv4 socket serves as the handle for interface ioctls; this one is bound to no address that
/// could receive anything.
fn control() -> io::Result<UdpSocket> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn if_request(name: &str) -> io::Result<IfReq> {
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], value: IfValue { whole: [0; 3] } };
    let bytes = name.as_bytes();
    // One byte stays for the NUL.
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    request.name[..bytes.len()].copy_from_slice(bytes);
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> SockAddrIn {
    SockAddrIn { family: libc::AF_INET as u16, port: 0, address: address.octets(), zero: [0; 8] }
}

fn netmask(prefix: u8) -> io::Result<Ipv4Addr> {
    match prefix {
        0 => Ok(Ipv4Addr::UNSPECIFIED),
        1..=32 => Ok(Ipv4Addr::from(u32::MAX << (32 - prefix))),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn ip(args: &str) -> String {
        let out = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Everything on a veth pair in a namespace of its own, checked with iproute2.
    #[test]
    fn an_interface_is_configured_as_iproute2_sees_it() {
        std::thread::spawn(|| {
            crate::netns::enter_new().unwrap();
            ip("link add one type veth peer name two");
            assert_eq!(
                index("one").unwrap().to_string(),
                ip("-o link show one").split(':').next().unwrap()
            );
            up("one").unwrap();
            assert!(ip("link show one").contains(",UP"));
            up("two").unwrap();

            assert_eq!(address("one").unwrap(), None);
            set_address("one", Ipv4Addr::new(10, 9, 8, 7), 22).unwrap();
            assert!(ip("-4 addr show one").contains("10.9.8.7/22"));
            assert_eq!(address("one").unwrap(), Some(Ipv4Addr::new(10, 9, 8, 7)));

            let gateway = Ipv4Addr::new(10, 9, 8, 1);
            add_default_route("one", gateway).unwrap();
            add_default_route("one", gateway).unwrap();
            assert_eq!(ip("route show default").trim(), "default via 10.9.8.1 dev one");

            set_address("one", Ipv4Addr::UNSPECIFIED, 0).unwrap();
            assert_eq!(address("one").unwrap(), None);
            assert_eq!(up("none").unwrap_err().errno(), Some(libc::ENODEV));
            assert_eq!(up("much-too-long-name").unwrap_err().errno(), Some(libc::EINVAL));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn carrier_is_read_and_a_missing_interface_is_an_error() {
        let sys = tempfile::tempdir().unwrap();
        let nic = sys.path().join("class/net/eth0");
        std::fs::create_dir_all(&nic).unwrap();
        for (text, state, expected) in [
            ("1\n", "up\n", true),
            ("1\n", "unknown\n", true),
            ("1\n", "down\n", false),
            ("0\n", "down\n", false),
        ] {
            std::fs::write(nic.join("carrier"), text).unwrap();
            std::fs::write(nic.join("operstate"), state).unwrap();
            assert_eq!(carrier(sys.path(), "eth0").unwrap(), expected, "{text} {state}");
        }
        assert!(carrier(sys.path(), "eth1").is_err());
        assert!(carrier(Path::new("/sys"), "lo").unwrap());
    }

    #[test]
    fn prefixes_become_masks() {
        assert_eq!(netmask(24).unwrap(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(32).unwrap(), Ipv4Addr::BROADCAST);
        assert_eq!(netmask(0).unwrap(), Ipv4Addr::UNSPECIFIED);
        assert!(netmask(33).is_err());
    }
}
