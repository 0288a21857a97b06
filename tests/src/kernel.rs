//! The kernels that a RAM image is built with.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// Which kernel; each has a manifest of its name below `initramfs/manifest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's kernel for virtual machines: it starts seconds faster under emulation.
    Cloud,
    /// Debian's kernel for every PC.
    Generic,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloud => "cloud",
            Self::Generic => "generic",
        })
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cloud" => Ok(Self::Cloud),
            "generic" => Ok(Self::Generic),
            other => bail!("{other} is neither `cloud` nor `generic`"),
        }
    }
}
