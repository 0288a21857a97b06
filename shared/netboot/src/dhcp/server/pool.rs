//! Which address a client may have: leases, offers held open, reservations, addresses set aside.

use super::{Config, NakReason};
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

/// All addresses of the subnet. Leases and holds lie on distinct addresses that may be given, so
/// the range and the reservations bound both.
#[derive(Debug)]
pub(super) struct Pool {
    first: u32,
    last: u32,
    /// The server's and the router's address, never given.
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
            first: config.range_first.into(),
            last: config.range_last.into(),
            ours: std::iter::once(config.server).chain(config.router).collect(),
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

    /// The address to offer: the client's own if it has one, in this order reserved, leased or
    /// last leased, already offered, asked for; then one nobody ever had, then the one unused for
    /// longest.
    pub(super) fn address_for(
        &self,
        mac: Mac,
        requested: Option<Ipv4Addr>,
        now_unix: u64,
    ) -> Option<Ipv4Addr> {
        let own = [
            self.reservation_of.get(&mac).copied(),
            self.leases.of_mac(mac).map(|lease| lease.ip),
            self.hold_of.get(&mac).copied(),
            requested,
        ];
        if let Some(ip) = own.into_iter().flatten().find(|ip| self.is_free_for(mac, *ip, now_unix))
        {
            return Some(ip);
        }
        let free = || self.scan(mac).filter(|ip| self.is_free_for(mac, *ip, now_unix));
        free().find(|ip| self.leases.of_ip(*ip).is_none()).or_else(|| {
            free().min_by_key(|ip| self.leases.of_ip(*ip).map(|(_, lease)| lease.expires_unix))
        })
    }

    /// Whether the client may have this address now. With a running lease or a reservation it may
    /// have no other. Both at once happen when the reservation is new or its address was set aside:
    /// then a running system may renew what it has, and one that starts is offered the reserved one.
    pub(super) fn claim(&self, mac: Mac, ip: Ipv4Addr, now_unix: u64) -> Result<(), NakReason> {
        let lease = self.leases.of_mac(mac).filter(|lease| lease.expires_unix > now_unix);
        let due = [self.reservation_of.get(&mac).copied(), lease.map(|lease| lease.ip)];
        let due = due.map(|it| it.filter(|due| self.is_free_for(mac, *due, now_unix)));
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
        let in_range = (self.first..=self.last).contains(&ip.into());
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

    /// The range once round, from a place given by the MAC (FNV-1a): after a loss of the journal
    /// most machines find their old address.
    fn scan(&self, mac: Mac) -> impl Iterator<Item = Ipv4Addr> {
        let hash = mac.0.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        let count = self.last - self.first + 1;
        let start = hash % count;
        let first = self.first;
        (0..count).map(move |step| Ipv4Addr::from(first + (start + step) % count))
    }
}
