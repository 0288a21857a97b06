//! The network interface that the machine booted through: found by its address, switched on, and
//! waited for until there is a carrier.

use super::console;
use anyhow::{Context, Result, bail};
use metalcast_shared::id::Mac;
use metalcast_sys::link;
use std::path::Path;
use std::time::{Duration, Instant};

/// For the interface to appear: its driver is loaded already.
const APPEAR_LIMIT: Duration = Duration::from_secs(30);
/// For the carrier: a switch that negotiates, or starts together with its machines.
pub(super) const CARRIER_LIMIT: Duration = Duration::from_secs(180);
/// Distance of lines on the console while waiting.
const SAY_EVERY: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);

/// Switches loopback and the interface with `mac` on and returns the latter's name once it has a
/// carrier. It fails naming the interfaces that are there, or the one without carrier.
pub(super) fn bring_up(sys: &Path, mac: Mac) -> Result<String> {
    link::up("lo")?;
    let found = wait(APPEAR_LIMIT, &format!("interface {mac}"), || Ok(find(sys, mac)))?;
    let Some(nic) = found else {
        let present: Vec<String> =
            interfaces(sys).into_iter().map(|(name, mac)| format!("{name} ({mac})")).collect();
        bail!("no interface has the address {mac}; found: {}", present.join(", "));
    };
    link::up(&nic)?;
    let linked = wait(CARRIER_LIMIT, &format!("link on {nic}"), || {
        Ok(link::carrier(sys, &nic)?.then_some(()))
    })?;
    linked.with_context(|| {
        format!("no link on {nic} ({mac}) within {} s: cable or switch", CARRIER_LIMIT.as_secs())
    })?;
    console::line(&format!("{nic} ({mac}) has a link"));
    Ok(nic)
}

/// Asks until there is an answer or the time is over, saying every 3 s what for.
fn wait<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let started = Instant::now();
    let mut said = Duration::ZERO;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        let waited = started.elapsed();
        if waited >= limit {
            return Ok(None);
        }
        if waited >= said + SAY_EVERY {
            said = waited;
            console::line(&format!("waiting for {what} ({} s)", waited.as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

fn find(sys: &Path, mac: Mac) -> Option<String> {
    interfaces(sys).into_iter().find(|(_, have)| *have == mac).map(|(name, _)| name)
}

/// Hardware interfaces by name; virtual ones have no device behind them.
fn interfaces(sys: &Path) -> Vec<(String, Mac)> {
    let Ok(entries) = std::fs::read_dir(sys.join("class/net")) else { return Vec::new() };
    let mut found: Vec<(String, Mac)> = entries
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let mac = std::fs::read_to_string(entry.path().join("address")).ok()?;
            Some((entry.file_name().into_string().ok()?, mac.trim().parse().ok()?))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_address_and_virtual_ones_are_not() {
        let sys = tempfile::tempdir().unwrap();
        for (name, mac, hardware) in [
            ("eth0", "52:54:00:00:00:01", true),
            ("eth1", "52:54:00:00:00:02", true),
            ("br0", "52:54:00:00:00:02", false),
        ] {
            let dir = sys.path().join("class/net").join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("address"), format!("{mac}\n")).unwrap();
            if hardware {
                std::fs::create_dir(dir.join("device")).unwrap();
            }
        }
        let mac = |last| Mac([0x52, 0x54, 0, 0, 0, last]);
        assert_eq!(find(sys.path(), mac(2)).as_deref(), Some("eth1"));
        assert_eq!(find(sys.path(), mac(3)), None);
    }

    #[test]
    fn waiting_ends_with_the_answer_or_the_limit() {
        let mut asked = 0;
        let answer = wait(Duration::from_secs(5), "three", || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), Some(3));
        let never = wait(Duration::from_millis(60), "nothing", || Ok(None::<()>));
        assert_eq!(never.unwrap(), None);
    }
}
