//! The address of a boot's own segment. It is a sealed statement, so nothing about a boot has to
//! be remembered, and a restart of the controller in mid-boot goes unnoticed.

use crate::pki::Purpose;
use metalcast_shared::id::{BootId, Mac};
use serde::{Deserialize, Serialize};

/// How long after its script a boot may fetch its segment, in seconds.
pub const LINK_SECONDS: i64 = 15 * 60;

/// Which boot a segment is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLink {
    /// The boot.
    pub boot: BootId,
    /// The address that asked for the script.
    pub mac: Mac,
    /// When the script was sent, seconds since 1970-01-01 UTC.
    pub issued_unix: i64,
}

impl Purpose for BootLink {
    const PURPOSE: &'static str = "metalcast boot link";
}

impl BootLink {
    /// Whether its time is over, or has not come: the clock was set back meanwhile.
    pub fn is_stale(&self, now_unix: i64) -> bool {
        !(0..=LINK_SECONDS).contains(&now_unix.saturating_sub(self.issued_unix))
    }
}
