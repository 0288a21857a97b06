//! How a deployed system reports in at its first start: a systemd unit, a small POSIX script and the
//! address with a token that is good for one report, readable by root alone.

use crate::disk::Root;
use anyhow::ensure;
use metalcast_shared::boot::ReportConfig;

#[cfg(test)]
mod tests;

const SCRIPT: &str = include_str!("report/metalcast-report.sh");
const UNIT: &str = include_str!("report/metalcast-report.service");

const SCRIPT_FILE: &str = "etc/metalcast/report.sh";
const CONFIG_FILE: &str = "etc/metalcast/report.conf";
const UNIT_FILE: &str = "etc/systemd/system/metalcast-report.service";
const UNIT_LINK: &str = "etc/systemd/system/multi-user.target.wants/metalcast-report.service";

/// Where distributions have systemd.
const SYSTEMD: [&str; 3] =
    ["usr/lib/systemd/systemd", "lib/systemd/systemd", "usr/lib/systemd/system/multi-user.target"];

/// Most bytes of an address or token.
const MAX_TEXT_BYTES: usize = 4096;

/// Whether the system on `root` can be made to report in.
pub fn can_report(root: &Root) -> bool {
    SYSTEMD.iter().any(|file| root.exists(file))
}

/// Makes the system on `root` report in, where that is possible; says what was done.
pub fn install(root: &Root, config: &ReportConfig) -> anyhow::Result<Vec<String>> {
    if !can_report(root) {
        return Ok(vec!["the system has no systemd and cannot report that it is up".into()]);
    }
    let text = config_text(config)?;
    root.create(SCRIPT_FILE, SCRIPT.as_bytes(), 0o755)?;
    root.create(UNIT_FILE, UNIT.as_bytes(), 0o644)?;
    root.link(UNIT_LINK, "/etc/systemd/system/metalcast-report.service")?;
    root.create(CONFIG_FILE, text.as_bytes(), 0o600)?;
    Ok(vec![format!("reports to {}", config.url)])
}

/// Takes out what an earlier deployment left in the image.
pub fn remove(root: &Root) -> anyhow::Result<Vec<String>> {
    if !root.exists(CONFIG_FILE) && !root.exists(UNIT_FILE) {
        return Ok(Vec::new());
    }
    for file in [CONFIG_FILE, UNIT_LINK, UNIT_FILE, SCRIPT_FILE] {
        root.remove(file)?;
    }
    Ok(vec!["an earlier one was taken out".into()])
}

/// Read by a shell: nothing that means something to it may be in there.
fn config_text(config: &ReportConfig) -> anyhow::Result<String> {
    let plain = |text: &str| {
        text.len() <= MAX_TEXT_BYTES
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:/[]-".contains(c))
    };
    ensure!(
        config.url.starts_with("http://") && plain(&config.url),
        "{:?} is no address to report to",
        config.url
    );
    ensure!(plain(&config.token) && !config.token.is_empty(), "the report token is malformed");
    Ok(format!("url='{}'\ntoken='{}'\n", config.url, config.token))
}
