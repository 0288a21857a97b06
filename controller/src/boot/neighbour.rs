//! Whose address is this: the kernel's ARP table. A client that just sent us something from our
//! own subnet is in it.

use metalcast_shared::id::Mac;
use std::net::Ipv4Addr;

/// The calling thread's network namespace, which `/proc/net` is only for the main thread.
const ARP_TABLE: &str = "/proc/thread-self/net/arp";

/// The hardware address behind `ip`, if the kernel knows it. Blocks for a moment.
pub fn mac_of(ip: Ipv4Addr) -> Option<Mac> {
    find(&std::fs::read_to_string(ARP_TABLE).ok()?, ip)
}

/// Lines are `address  type  flags  hardware-address  mask  device` behind a heading (proc(5)).
fn find(table: &str, ip: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_it = fields.next()?.parse() == Ok(ip);
        let mac: Mac = fields.nth(2)?.parse().ok()?;
        (is_it && mac.0 != [0; 6]).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "\
IP address       HW type     Flags       HW address            Mask     Device
10.77.0.1        0x1         0x0         00:00:00:00:00:00     *        eth1
10.77.0.10       0x1         0x2         52:54:00:00:00:0a     *        eth1
";
        assert_eq!(find(table, Ipv4Addr::new(10, 77, 0, 10)), Some(Mac([0x52, 0x54, 0, 0, 0, 10])));
        assert_eq!(find(table, Ipv4Addr::new(10, 77, 0, 1)), None);
        assert_eq!(find(table, Ipv4Addr::new(10, 77, 0, 2)), None);
    }
}
