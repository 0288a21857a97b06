//! Which address a client may have: leases, offers held open, reservations, addresses set aside.

use super::{Config, NakReason, Subnet};
use crate::{
    dhcp::lease::{LeaseRecord, LeaseTable},
    mac::Mac,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// An offer that may still be taken.
#[derive(Debug, Clone, Copy)]
struct Hold {
    mac: Mac,
    until_unix: u64,
}

/// All addresses of all subnets. Leases and holds lie on distinct addresses that may be given, so
/// the ranges and the reservations bound both. A machine has one lease, wherever it is: in another
/// subnet it gets another address, and its old one is free again.
#[derive(Debug)]
pub(super) struct Pool {
    /// First and last address of each range.
    ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The server's and the routers' addresses, never given.
    ours: BTreeSet<Ipv4Addr>,
    reserved_for: BTreeMap<Ipv4Addr, Mac>,
    reservation_of: BTreeMap<Mac, Ipv4Addr>,
    leases: LeaseTable,
    holds: BTreeMap<Ipv4Addr, Hold>,
    hold_of: BTreeMap<Mac, Ipv4Addr>,
}

impl Pool {
    pub(super) fn new(config: &Config, leases: LeaseTable) -> Self {
        let mut pool = Self {
            ranges: config.subnets().map(|it| (it.range_first, it.range_last)).collect(),
            ours: config.taken().collect(),
            reserved_for: config.reservations.iter().map(|(mac, r)| (r.ip, *mac)).collect(),
            reservation_of: config.reservations.iter().map(|(mac, r)| (*mac, r.ip)).collect(),
            leases: LeaseTable::default(),
            holds: BTreeMap::new(),
            hold_of: BTreeMap::new(),
        };
        let mut leases = leases;
        leases.retain(|ip| pool.is_ours_to_give(ip));
        pool.leases = leases;
        pool
    }

    pub(super) fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// The address of this subnet to offer: the client's own if it has one, in this order reserved,
    /// leased or last leased, already offered, asked for; then one nobody ever had, then the one
    /// unused for longest.
    pub(super) fn address_for(
        &self,
        mac: Mac,
        subnet: &Subnet,
        requested: Option<Ipv4Addr>,
        now_unix: u64,
    ) -> Option<Ipv4Addr> {
        let fits = |ip: &Ipv4Addr| subnet.contains(*ip) && self.is_free_for(mac, *ip, now_unix);
        let own = [
            self.reservation_of.get(&mac).copied(),
            self.leases.of_mac(mac).map(|lease| lease.ip),
            self.hold_of.get(&mac).copied(),
            requested,
        ];
        if let Some(ip) = own.into_iter().flatten().find(fits) {
            return Some(ip);
        }
        let free = || scan(subnet, mac).filter(fits);
        free().find(|ip| self.leases.of_ip(*ip).is_none()).or_else(|| {
            free().min_by_key(|ip| self.leases.of_ip(*ip).map(|(_, lease)| lease.expires_unix))
        })
    }

    /// Whether the client may have this address of this subnet now. With a running lease or a
    /// reservation there it may have no other. Both at once happen when the reservation is new or its address was set aside:
    /// then a running system may renew what it has, and one that starts is offered the reserved one.
    pub(super) fn claim(
        &self,
        mac: Mac,
        subnet: &Subnet,
        ip: Ipv4Addr,
        now_unix: u64,
    ) -> Result<(), NakReason> {
        if !subnet.contains(ip) {
            return Err(NakReason::WrongNetwork);
        }
        let fits = |ip: &Ipv4Addr| subnet.contains(*ip) && self.is_free_for(mac, *ip, now_unix);
        let lease = self.leases.of_mac(mac).filter(|lease| lease.expires_unix > now_unix);
        let due = [self.reservation_of.get(&mac).copied(), lease.map(|lease| lease.ip)];
        let due = due.map(|it| it.filter(fits));
        if due.contains(&Some(ip)) {
            return Ok(());
        }
        match due.into_iter().flatten().next() {
            Some(due) => Err(NakReason::OtherAddress(due)),
            None if self.is_free_for(mac, ip, now_unix) => Ok(()),
            None => Err(NakReason::NotAvailable),
        }
    }

    /// Keeps an offered address from others for a while. A client has one offer at a time.
    pub(super) fn hold(&mut self, mac: Mac, ip: Ipv4Addr, until_unix: u64) {
        self.drop_hold(mac);
        // An offer to someone else that ran out is replaced.
        if let Some(before) = self.holds.insert(ip, Hold { mac, until_unix }) {
            self.hold_of.remove(&before.mac);
        }
        self.hold_of.insert(mac, ip);
    }

    pub(super) fn drop_hold(&mut self, mac: Mac) {
        if let Some(ip) = self.hold_of.remove(&mac) {
            self.holds.remove(&ip);
        }
    }

    /// Takes a change of the leases over.
    pub(super) fn record(&mut self, record: &LeaseRecord) {
        if let Some(hold) = self.holds.remove(&record.ip) {
            self.hold_of.remove(&hold.mac);
        }
        self.leases.apply(record);
    }

    /// True if the client leases the address or was just offered it.
    pub(super) fn is_of(&self, mac: Mac, ip: Ipv4Addr, now_unix: u64) -> bool {
        let leases =
            self.leases.of_mac(mac).is_some_and(|it| it.ip == ip && it.expires_unix > now_unix);
        let held = self.holds.get(&ip).is_some_and(|it| it.mac == mac && it.until_unix > now_unix);
        leases || held
    }

    fn is_ours_to_give(&self, ip: Ipv4Addr) -> bool {
        let in_range = self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&ip));
        (in_range || self.reserved_for.contains_key(&ip)) && !self.ours.contains(&ip)
    }

    fn is_free_for(&self, mac: Mac, ip: Ipv4Addr, now_unix: u64) -> bool {
        self.is_ours_to_give(ip)
            && self.reserved_for.get(&ip).is_none_or(|holder| *holder == mac)
            && !self.leases.is_quarantined(ip, now_unix)
            && self
                .leases
                .of_ip(ip)
                .is_none_or(|(holder, it)| holder == mac || it.expires_unix <= now_unix)
            && self.holds.get(&ip).is_none_or(|it| it.mac == mac || it.until_unix <= now_unix)
    }
}

/// The subnet's range once round, from a place given by the MAC (FNV-1a): after a loss of the
/// journal most machines find their old address.
fn scan(subnet: &Subnet, mac: Mac) -> impl Iterator<Item = Ipv4Addr> {
    let hash = mac
        .0
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let (first, count) = (subnet.range_first.to_bits(), subnet.range_len());
    let start = hash % count;
    (0..count).map(move |step| Ipv4Addr::from(first + (start + step) % count))
}
