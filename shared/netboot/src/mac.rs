//! The Ethernet address, re-exported so that users of this crate need not name `metalcast-shared`,
//! and the two spellings of it that boot services use.

pub use metalcast_shared::id::Mac;

/// True for an address one machine can have: not a group address (lowest bit of the first byte,
/// IEEE 802 clause 8) and not all zeroes.
pub fn is_station(mac: Mac) -> bool {
    mac.0[0] & 1 == 0 && mac.0 != [0; 6]
}

/// The kernel argument that names the interface a machine booted from: `BOOTIF=01-52-54-00-..`,
/// where 01 is the hardware type Ethernet. PXELINUX began it with IPAPPEND 2.
pub fn bootif(mac: Mac) -> String {
    format!("BOOTIF=01-{}", mac.dashed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_zero_addresses_are_no_stations() {
        assert!(is_station(Mac([0x52, 0x54, 0, 1, 2, 3])));
        assert!(!is_station(Mac([0; 6])));
        assert!(!is_station(Mac([0xff; 6])));
        assert!(!is_station(Mac([1, 0, 0x5e, 0, 0, 1])));
    }

    #[test]
    fn bootif_spelling() {
        assert_eq!(bootif(Mac([0x52, 0x54, 0, 0xab, 2, 3])), "BOOTIF=01-52-54-00-ab-02-03");
    }
}
