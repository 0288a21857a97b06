//! Leases in memory and the text journal they survive a restart in.
//!
//! One MAC address has at most one lease and one address at most one MAC. A lease that ran out
//! stays as a memory of who had the address, so that a machine finds the same one again, until the
//! address is given to another.
//!
//! The journal is lines `<crc32> <expires> <address> <mac or -> <host name or ->`, the check sum
//! over what follows it; the last line about an address or a MAC wins. The caller appends and
//! fsyncs before it answers the client.

use crate::mac::{Mac, is_station};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

/// No line is longer; a longer one is damage.
const MAX_LINE_LEN: usize = 160;
/// A journal is worth rewriting when it has this many lines more than twice what it must hold.
const COMPACTION_SLACK: usize = 1024;

/// One change, as journalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The address.
    pub ip: Ipv4Addr,
    /// Unix seconds at which the lease or the quarantine ends.
    pub expires_unix: u64,
    /// Whose it is.
    pub holder: Holder,
}

/// Who keeps an address from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A client; it has given the address back if the expiry is not in the future.
    Client {
        /// Its Ethernet address.
        mac: Mac,
        /// What it calls itself.
        hostname: Option<String>,
    },
    /// Nobody may have it: a client found it in use (DHCPDECLINE).
    Quarantine,
}

impl fmt::Display for LeaseRecord {
    /// The journal line without check sum and newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, expires_unix, holder } = self;
        match holder {
            Holder::Client { mac, hostname } => {
                let hostname = hostname.as_deref().unwrap_or("-");
                write!(f, "{expires_unix} {ip} {mac} {hostname}")
            }
            Holder::Quarantine => write!(f, "{expires_unix} {ip} - -"),
        }
    }
}

impl LeaseRecord {
    /// The journal line, newline included.
    pub fn to_line(&self) -> String {
        let body = self.to_string();
        format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes()))
    }

    /// Reads a line without its newline; `None` if it is damaged.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_LINE_LEN {
            return None;
        }
        let (sum, body) = str::from_utf8(line).ok()?.split_once(' ')?;
        if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(body.as_bytes())
        {
            return None;
        }
        let fields: Vec<&str> = body.split(' ').collect();
        let [expires, ip, mac, hostname] = fields.as_slice() else { return None };
        let holder = match *mac {
            "-" => Holder::Quarantine,
            mac => Holder::Client {
                mac: mac.parse().ok().filter(|mac| is_station(*mac))?,
                hostname: (*hostname != "-").then(|| (*hostname).to_owned()),
            },
        };
        Some(Self { ip: ip.parse().ok()?, expires_unix: expires.parse().ok()?, holder })
    }
}

/// A client's entry in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Unix seconds.
    pub expires_unix: u64,
    /// What it calls itself.
    pub hostname: Option<String>,
}

/// All leases, current and remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseTable {
    by_mac: BTreeMap<Mac, Lease>,
    by_ip: BTreeMap<Ipv4Addr, Mac>,
    quarantine: BTreeMap<Ipv4Addr, u64>,
}

/// What reading a journal gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The leases.
    pub table: LeaseTable,
    /// Good lines read.
    pub lines: usize,
    /// Damaged lines in the middle, which were skipped.
    pub damaged: usize,
    /// Bytes up to the end of the last whole line. A torn last line lies behind it: truncate the
    /// file here before appending, or the next record would be glued to the rest of it.
    pub whole_len: u64,
}

impl LeaseTable {
    /// Reads a journal.
    pub fn replay(journal: &[u8]) -> Replay {
        let mut replay = Replay { table: Self::default(), lines: 0, damaged: 0, whole_len: 0 };
        for line in journal.split_inclusive(|byte| *byte == b'\n') {
            let Some(body) = line.strip_suffix(b"\n") else { break };
            replay.whole_len += line.len() as u64;
            match LeaseRecord::from_line(body) {
                Some(record) => {
                    replay.table.apply(&record);
                    replay.lines += 1;
                }
                None => replay.damaged += 1,
            }
        }
        replay
    }

    /// The shortest journal with the same meaning: write it to a new file, fsync, rename.
    pub fn compact(&self) -> String {
        self.records().map(|record| record.to_line()).collect()
    }

    /// True once a journal of `lines` lines is mostly history.
    pub fn wants_compaction(&self, lines: usize) -> bool {
        lines > 2 * (self.by_mac.len() + self.quarantine.len()) + COMPACTION_SLACK
    }

    /// Takes a change over. The last one wins.
    pub fn apply(&mut self, record: &LeaseRecord) {
        let LeaseRecord { ip, expires_unix, ref holder } = *record;
        if let Some(before) = self.by_ip.remove(&ip) {
            self.by_mac.remove(&before);
        }
        match holder {
            Holder::Client { mac, hostname } => {
                let lease = Lease { ip, expires_unix, hostname: hostname.clone() };
                if let Some(before) = self.by_mac.insert(*mac, lease) {
                    self.by_ip.remove(&before.ip);
                }
                self.by_ip.insert(ip, *mac);
                self.quarantine.remove(&ip);
            }
            Holder::Quarantine => {
                self.quarantine.insert(ip, expires_unix);
            }
        }
    }

    /// Drops what lies outside the addresses that may be given now.
    pub fn retain(&mut self, mut keep: impl FnMut(Ipv4Addr) -> bool) {
        self.by_mac.retain(|_, lease| keep(lease.ip));
        self.by_ip.retain(|ip, _| keep(*ip));
        self.quarantine.retain(|ip, _| keep(*ip));
    }

    /// The entry of a client, current or run out.
    pub fn of_mac(&self, mac: Mac) -> Option<&Lease> {
        self.by_mac.get(&mac)
    }

    /// Who has, or last had, an address.
    pub fn of_ip(&self, ip: Ipv4Addr) -> Option<(Mac, &Lease)> {
        let mac = self.by_ip.get(&ip)?;
        Some((*mac, self.by_mac.get(mac)?))
    }

    /// True while nobody may have the address.
    pub fn is_quarantined(&self, ip: Ipv4Addr, now_unix: u64) -> bool {
        self.quarantine.get(&ip).is_some_and(|until| *until > now_unix)
    }

    /// All clients, current and run out, by MAC.
    pub fn iter(&self) -> impl Iterator<Item = (Mac, &Lease)> {
        self.by_mac.iter().map(|(mac, lease)| (*mac, lease))
    }

    fn records(&self) -> impl Iterator<Item = LeaseRecord> {
        let clients = self.by_mac.iter().map(|(mac, lease)| LeaseRecord {
            ip: lease.ip,
            expires_unix: lease.expires_unix,
            holder: Holder::Client { mac: *mac, hostname: lease.hostname.clone() },
        });
        let quarantined = self.quarantine.iter().map(|(ip, until)| LeaseRecord {
            ip: *ip,
            expires_unix: *until,
            holder: Holder::Quarantine,
        });
        clients.chain(quarantined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = LeaseRecord> {
        let holder = prop_oneof![
            4 => (0u8..6, proptest::option::of("[a-z0-9_.-]{2,63}")).prop_map(|(mac, hostname)| {
                Holder::Client { mac: Mac([2, 0, 0, 0, 0, mac]), hostname }
            }),
            1 => Just(Holder::Quarantine),
        ];
        (0u8..8, any::<u64>(), holder).prop_map(|(ip, expires_unix, holder)| LeaseRecord {
            ip: Ipv4Addr::new(10, 0, 0, ip),
            expires_unix,
            holder,
        })
    }

    #[test]
    fn line_format_is_stable() {
        let record = LeaseRecord {
            ip: Ipv4Addr::new(10, 77, 0, 100),
            expires_unix: 1_800_000_000,
            holder: Holder::Client {
                mac: Mac([0x52, 0x54, 0, 0x77, 0, 5]),
                hostname: Some("node1".into()),
            },
        };
        let line = record.to_line();
        assert_eq!(line, "0cc6f4c2 1800000000 10.77.0.100 52:54:00:77:00:05 node1\n");
        assert_eq!(LeaseRecord::from_line(line.trim_end().as_bytes()), Some(record));
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_its_place_told() {
        let one = LeaseRecord {
            ip: Ipv4Addr::new(10, 0, 0, 1),
            expires_unix: 5,
            holder: Holder::Client { mac: Mac([2, 0, 0, 0, 0, 1]), hostname: None },
        };
        let two = LeaseRecord { ip: Ipv4Addr::new(10, 0, 0, 2), ..one.clone() };
        let whole = one.to_line();
        let journal = whole.clone() + &two.to_line();
        for cut in whole.len()..journal.len() {
            let replay = LeaseTable::replay(&journal.as_bytes()[..cut]);
            assert_eq!(replay.whole_len, whole.len() as u64);
            assert_eq!((replay.lines, replay.damaged), (1, 0));
            assert!(replay.table.of_ip(one.ip).is_some());
        }
        let replay = LeaseTable::replay(journal.as_bytes());
        assert_eq!(replay.whole_len, journal.len() as u64);
        assert_eq!(replay.table.of_ip(one.ip), None, "the MAC has moved on");
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let line = |last: u8| {
            LeaseRecord {
                ip: Ipv4Addr::new(10, 0, 0, last),
                expires_unix: 5,
                holder: Holder::Client { mac: Mac([2, 0, 0, 0, 0, last]), hostname: None },
            }
            .to_line()
        };
        let mut journal = (line(1) + &line(2) + &line(3)).into_bytes();
        let at = line(1).len() + 12;
        journal[at] ^= 1;
        let replay = LeaseTable::replay(&journal);
        assert_eq!((replay.lines, replay.damaged), (2, 1));
        assert_eq!(replay.table.iter().count(), 2);
    }

    #[test]
    fn compaction_is_wanted_for_a_long_history() {
        let table = LeaseTable::default();
        assert!(!table.wants_compaction(1024));
        assert!(table.wants_compaction(1025));
    }

    proptest! {
        #[test]
        fn replay_gives_the_table_back(records in proptest::collection::vec(record(), 0..60)) {
            let mut table = LeaseTable::default();
            let mut journal = String::new();
            for record in &records {
                table.apply(record);
                journal += &record.to_line();
                // Both indices tell the same story.
                prop_assert_eq!(table.by_ip.len(), table.by_mac.len());
                for (mac, lease) in table.iter() {
                    prop_assert_eq!(table.by_ip.get(&lease.ip), Some(&mac));
                }
            }
            let replay = LeaseTable::replay(journal.as_bytes());
            prop_assert_eq!(&replay.table, &table);
            prop_assert_eq!(replay.damaged, 0);
            let compact = table.compact();
            prop_assert_eq!(&LeaseTable::replay(compact.as_bytes()).table, &table);
        }

        #[test]
        fn junk_is_survived(journal in proptest::collection::vec(any::<u8>(), 0..600)) {
            let replay = LeaseTable::replay(&journal);
            prop_assert!(replay.whole_len <= journal.len() as u64);
        }
    }
}
