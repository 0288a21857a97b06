//! How much memory this program uses, as the kernel counts it.

use std::fs;

/// Bytes in memory now; `None` if the kernel does not say.
pub fn resident_bytes() -> Option<u64> {
    field(&status(), "VmRSS:")
}

/// The most bytes that were in memory at a time.
pub fn peak_bytes() -> Option<u64> {
    field(&status(), "VmHWM:")
}

fn status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// A line of proc(5)'s status such as `VmRSS:     5120 kB`.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_counted() {
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let during = resident_bytes().unwrap();
        drop(block);
        assert!(during >= 32 << 20 && peak_bytes().unwrap() >= 32 << 20, "{during}");
        assert_eq!(field("VmHWM:\t    5120 kB\n", "VmHWM:"), Some(5 << 20));
        for odd in ["", "VmHWM:", "VmHWM: 5 MB", "VmHWM: x kB"] {
            assert_eq!(field(odd, "VmHWM:"), None, "{odd}");
        }
    }
}
