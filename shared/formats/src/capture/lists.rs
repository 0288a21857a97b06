//! The text files that name what was saved.

use super::Planned;
use crate::clonezilla::{DiskFacts, DiskTable, RAW};
use jiff::Timestamp;

/// What stands before the list of filesystems; Clonezilla skips two lines.
const DEV_FS_HEAD: &str = "# <Device name>   <File system>   <Size>\n\
     # File system is what Metalcast recognised. It might be different from that of blkid or parted.\n";

/// `clonezilla-img`, which comes after the checksums and is not verified: what was saved, from where,
/// and when.
pub fn log(planned: &[Planned], from: &str, now: Timestamp) -> String {
    let what: String = planned.iter().map(|planned| format!("{planned}\n")).collect();
    format!(
        "This image was saved by Metalcast {} at {} UTC from {from}.\n{what}### End of log ###\n\
         ### Image created time: {}\n",
        env!("CARGO_PKG_VERSION"),
        now.strftime("%Y-%m-%d %H:%M:%S"),
        now.strftime("%Y-%m%d-%H%M"),
    )
}

pub(super) fn dev_fs(planned: &[Planned]) -> String {
    let row = |planned: &Planned| {
        let filesystem = match planned.map() {
            Some(map) if map.program != RAW => map.program,
            _ => planned.found.as_ref().map_or("", |found| found.kind.name()),
        };
        let size = size(planned.bytes_of_partition);
        format!("/dev/{} {filesystem} {size}\n", planned.facts.name)
    };
    let data = planned.iter().filter(|planned| planned.map().is_some()).map(row);
    let swap = planned.iter().filter(|planned| planned.is_swap()).map(row);
    data.chain(swap).fold(DEV_FS_HEAD.to_owned(), |text, row| text + &row)
}

pub(super) fn blkid(disk: Option<&DiskFacts>, planned: &[Planned]) -> String {
    let mut text = String::new();
    for planned in planned {
        let mut words = Vec::new();
        if let Some(found) = &planned.found {
            let label = found.label.as_ref().map(|label| ("LABEL", label.clone()));
            let uuid = found.uuid.as_ref().map(|uuid| ("UUID", uuid.clone()));
            words.extend(label.into_iter().chain(uuid));
            words.push(("TYPE", found.kind.name().to_owned()));
        }
        words.extend(partuuid(disk, planned.facts.number).map(|uuid| ("PARTUUID", uuid)));
        let words: String = words.iter().map(|(key, value)| format!(" {key}={value:?}")).collect();
        text.push_str(&format!("/dev/{}:{words}\n", planned.facts.name));
    }
    text
}

fn partuuid(disk: Option<&DiskFacts>, number: u16) -> Option<String> {
    match &disk?.table {
        DiskTable::Mbr(table) => Some(table.partuuid(number)),
        DiskTable::Gpt(table) => {
            Some(table.entries.iter().find(|entry| entry.number == number)?.guid.to_string())
        }
    }
}

/// What `mkswap` is given again.
pub(super) fn swap_ids(swap: &Planned) -> String {
    let Some(found) = &swap.found else { return String::new() };
    let line = |key: &str, value: &Option<String>| {
        value.as_ref().map_or(String::new(), |value| format!("{key}=\"{value}\"\n"))
    };
    line("UUID", &found.uuid) + &line("LABEL", &found.label)
}

/// A size as `lsblk` prints it.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < 5 {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), ["B", "K", "M", "G", "T", "P"][unit])
}
