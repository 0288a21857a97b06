//! The kernel's drivers of filesystems.

use crate::init;
use anyhow::{Context, ensure};

/// Sees to it that the kernel can mount this filesystem, or will load its driver by itself. A system
/// that cannot be mounted cannot be adapted: better known before it is written.
pub(super) fn require(name: &str) -> anyhow::Result<()> {
    if is_there(name)? {
        return Ok(());
    }
    // On a whole system the kernel has it loaded when it is asked to mount.
    if has_loader() {
        return Ok(());
    }
    init::load_module(name).with_context(|| format!("there is no driver for {name}"))?;
    ensure!(is_there(name)?, "the kernel does not know {name} with its driver loaded");
    Ok(())
}

/// Whether the kernel has someone else to load modules: in the RAM image it would ask us.
fn has_loader() -> bool {
    let loader = std::fs::read_to_string("/proc/sys/kernel/modprobe").unwrap_or_default();
    let loader = std::fs::canonicalize(loader.trim());
    loader.is_ok_and(|loader| !std::env::current_exe().is_ok_and(|own| own == loader))
}

fn is_there(name: &str) -> anyhow::Result<bool> {
    let known = std::fs::read_to_string("/proc/filesystems").context("listing filesystems")?;
    Ok(known.lines().any(|line| line.split_whitespace().last() == Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_is_enough_and_what_nobody_has_is_named() {
        require("proc").unwrap();
        if !has_loader() {
            let error = require("nosuchfs").unwrap_err().to_string();
            assert_eq!(error, "there is no driver for nosuchfs");
        }
    }
}
