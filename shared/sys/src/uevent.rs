//! Device events from the kernel: a netlink(7) socket of family `NETLINK_KOBJECT_UEVENT`.
//!
//! Events may be lost (`ENOBUFS`): they are a reason to look at sysfs again, never a replacement.

use crate::{Result, during};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The kernel's own limit is 2048 bytes of variables plus the path (UEVENT_BUFFER_SIZE).
const MESSAGE_LIMIT: usize = 8192;
/// The multicast group of events that come straight from the kernel; udev forwards on another.
const KERNEL_GROUP: u32 = 1;

/// An open event socket.
#[derive(Debug)]
pub struct UeventSocket {
    fd: OwnedFd,
}

/// What came from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device was added, changed, removed or bound.
    Device(Uevent),
    /// The buffer overflowed and events are missing: walk sysfs again.
    Lost,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind` ...
    pub action: String,
    /// Path below `/sys`, with a leading slash.
    pub devpath: String,
    /// All variables in their order, such as `SUBSYSTEM` and `MODALIAS`.
    pub variables: Vec<(String, String)>,
}

impl UeventSocket {
    /// Opens the socket; events from now on are queued.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            // SAFETY: socket(2) takes no pointers.
            let fd = unsafe {
                libc::socket(
                    libc::AF_NETLINK,
                    libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
                    libc::NETLINK_KOBJECT_UEVENT,
                )
            };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is fresh and owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: an all-zero sockaddr_nl is valid.
            let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
            address.nl_family = libc::AF_NETLINK as u16;
            address.nl_groups = KERNEL_GROUP;
            // SAFETY: `address` is a sockaddr_nl and its true size is given.
            let rc = unsafe {
                libc::bind(
                    fd.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of::<libc::sockaddr_nl>() as libc::socklen_t,
                )
            };
            if rc == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
        };
        Ok(Self { fd: open().map_err(during(|| "opening the device event socket"))? })
    }

    /// Waits for an event, at most `timeout`; `None` when none came.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Event>> {
        self.try_receive(timeout).map_err(during(|| "receiving device events"))
    }

    fn try_receive(&self, timeout: Duration) -> io::Result<Option<Event>> {
        if !readable(&self.fd, timeout)? {
            return Ok(None);
        }
        let mut buffer = [0_u8; MESSAGE_LIMIT];
        // SAFETY: the buffer is valid for its length.
        let len = unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if len < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOBUFS) => Ok(Some(Event::Lost)),
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        Ok(parse(&buffer[..(len as usize).min(MESSAGE_LIMIT)]).map(Event::Device))
    }
}

/// Waits until `fd` can be read, at most `timeout` (rounded up to milliseconds).
pub(crate) fn readable(fd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let millis = timeout.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Form: `add@/devices/...` NUL `ACTION=add` NUL `DEVPATH=/devices/...` NUL ... `None` for anything
/// else, such as udev's own messages.
fn parse(message: &[u8]) -> Option<Uevent> {
    let mut fields = message.split(|byte| *byte == 0).filter_map(|f| std::str::from_utf8(f).ok());
    let (action, devpath) = fields.next()?.split_once('@')?;
    let variables = fields
        .filter_map(|field| field.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Some(Uevent { action: action.to_owned(), devpath: devpath.to_owned(), variables })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_change_event_asked_for_in_sysfs_arrives() {
        let socket = UeventSocket::open().unwrap();
        std::fs::write("/sys/class/net/lo/uevent", "change").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            assert!(Instant::now() < deadline, "no event in 5 s");
            match socket.receive(Duration::from_millis(200)).unwrap() {
                Some(Event::Device(event)) if event.devpath == "/devices/virtual/net/lo" => {
                    assert_eq!(event.action, "change");
                    assert!(event.variables.contains(&("SUBSYSTEM".into(), "net".into())));
                    break;
                }
                _ => continue,
            }
        }
    }

    #[test]
    fn other_messages_are_no_events() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        let event = parse(b"add@/devices/x\0ACTION=add\0junk\0MODALIAS=a:b=c\0").unwrap();
        assert_eq!(event.devpath, "/devices/x");
        assert_eq!(event.variables[1], ("MODALIAS".into(), "a:b=c".into()));
    }
}
