//! Where the content of an attribute lies: its packed list of runs.

/// A file in more pieces than this is not followed; the table of a badly worn volume has hundreds.
pub(super) const MAX_EXTENTS: usize = 1 << 16;

/// Clusters of a stream that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First cluster within the stream.
    pub(super) vcn: u64,
    /// First cluster of the volume; none for a hole.
    pub(super) lcn: Option<u64>,
    /// How many.
    pub(super) clusters: u64,
}

/// Unpacks runs that begin at `vcn`. `None` if they are damaged, leave the volume or are too many.
pub(super) fn unpack(packed: &[u8], mut vcn: u64, volume_clusters: u64) -> Option<Vec<Extent>> {
    let (mut rest, mut lcn, mut extents) = (packed, 0i64, Vec::new());
    loop {
        let (&sizes, behind) = rest.split_first()?;
        if sizes == 0 {
            return Some(extents);
        }
        let (length_bytes, offset_bytes) = (usize::from(sizes & 0xf), usize::from(sizes >> 4));
        if !(1..=8).contains(&length_bytes) || offset_bytes > 8 {
            return None;
        }
        let (length, behind) = behind.split_at_checked(length_bytes)?;
        let (offset, behind) = behind.split_at_checked(offset_bytes)?;
        let clusters = u64::try_from(signed(length)).ok().filter(|clusters| *clusters > 0)?;
        let start = match offset_bytes {
            0 => None,
            _ => {
                lcn = lcn.checked_add(signed(offset))?;
                let start = u64::try_from(lcn).ok()?;
                start.checked_add(clusters).filter(|end| *end <= volume_clusters)?;
                Some(start)
            }
        };
        if extents.len() == MAX_EXTENTS {
            return None;
        }
        extents.push(Extent { vcn, lcn: start, clusters });
        vcn = vcn.checked_add(clusters)?;
        rest = behind;
    }
}

/// A little-endian integer of up to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut raw = if negative { [0xff; 8] } else { [0; 8] };
    raw[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_step_forth_and_back_and_have_holes() {
        let packed = [0x31, 0x38, 0x73, 0x25, 0x34, 0x11, 0x10, 0xf0, 0x01, 0x05, 0x00];
        let extent = |vcn, lcn, clusters| Extent { vcn, lcn, clusters };
        let expected = [
            extent(0, Some(0x34_2573), 0x38),
            extent(0x38, Some(0x34_2563), 0x10),
            extent(0x48, None, 5),
        ];
        assert_eq!(unpack(&packed, 0, 0x40_0000).unwrap(), expected);
        assert_eq!(unpack(&packed, 0, 0x34_2573), None, "beyond the volume");
        assert_eq!(unpack(&packed[..10], 0, 0x40_0000), None, "without an end");
        assert_eq!(unpack(&[0x11, 0x00, 0x01, 0x00], 0, 100), None, "of no length");
        assert_eq!(unpack(&[0x11, 0x01, 0x80, 0x00], 0, 100), None, "before the volume");
    }
}
