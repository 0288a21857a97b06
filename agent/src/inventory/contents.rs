//! What lies on a disk, and its partition table, so that an operator sees what a job would destroy.
//!
//! Partitions are those that the kernel knows; each is looked at in its first and last MiB.

use super::{number, users::Users};
use metalcast_formats::probe::{Contents, probe};
use metalcast_formats::whole_disk;
use metalcast_shared::disk::{Content, Disk};
use metalcast_shared::table::FoundTable;
use metalcast_sys::block::SECTOR_BYTES;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The kernel shows an extended partition as its first KiB, or first sector where that is larger;
/// what is in it are partitions of their own.
const EXTENDED_SECTORS: u64 = 8;
/// More partitions of one disk are not looked at: each costs two MiB of reading.
const PARTITION_LIMIT: usize = 256;

/// What a look at a disk finds: everything recognised, and the table.
type Seen = (Vec<Content>, Option<FoundTable>);

/// Disks that a look has not come back from yet.
static LOOKED_AT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The disks with what is on them, all looked at at the same time and at most for `limit`.
pub(super) fn of_all(disks: Vec<Disk>, sys: &Path, dev: &Path, limit: Duration) -> Vec<Disk> {
    let looks: Vec<(Disk, Option<Receiver<Seen>>)> =
        disks.into_iter().map(|disk| (disk.clone(), begin(&disk.name, sys, dev))).collect();
    let deadline = Instant::now() + limit;
    let finish = |(disk, look): (Disk, Option<Receiver<Seen>>)| {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = look.and_then(|look| look.recv_timeout(left).ok());
        let (contents, table) = seen.unwrap_or_else(|| {
            tracing::warn!("disk {} does not answer within {limit:?}", disk.name);
            let what = "does not answer".into();
            (vec![Content { partition: None, what, bytes: disk.bytes }], None)
        });
        Disk { contents, table, ..disk }
    };
    looks.into_iter().map(finish).collect()
}

/// Looks at a disk in a thread of its own; `None` while an earlier look has not come back.
fn begin(name: &str, sys: &Path, dev: &Path) -> Option<Receiver<Seen>> {
    let looked_at = || LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if !looked_at().insert(name.to_owned()) {
        return None;
    }
    let (result, look) = channel();
    let (name, sys, dev) = (name.to_owned(), sys.to_owned(), dev.to_owned());
    std::thread::spawn(move || {
        let seen = read(&sys, &dev, &name);
        looked_at().remove(&name);
        // Nobody may be waiting any more.
        let _ = result.send(seen);
    });
    Some(look)
}

/// Everything recognised on the disk `name`, itself first, then its partitions by number. Blank ones
/// are left out; one that cannot be read is not taken for blank. The table is the one on the disk, whether
/// the kernel knows it or not.
fn read(sys: &Path, dev: &Path, name: &str) -> Seen {
    let dir = sys.join("block").join(name);
    let bytes = number::<u64>(&dir.join("size")).unwrap_or(0).saturating_mul(SECTOR_BYTES);
    let mut disk = match File::open(dev.join(name)) {
        Ok(disk) => disk,
        Err(error) => {
            return (vec![Content { partition: None, what: unreadable(&error), bytes }], None);
        }
    };
    let mut look = |partition: Option<u32>, start_byte: u64, bytes: u64| {
        let what = match probe(&mut disk, start_byte, bytes) {
            Ok(Contents::Blank) => return None,
            Ok(contents) => contents.to_string(),
            Err(error) => unreadable(&error),
        };
        Some(Content { partition, what, bytes })
    };
    let whole = look(None, 0, bytes);
    let parts = partitions(&dir).into_iter().filter_map(|(number, start, sectors)| {
        let (start, bytes) = (start.checked_mul(SECTOR_BYTES)?, sectors.checked_mul(SECTOR_BYTES)?);
        look(Some(number), start, bytes)
    });
    let parts: Vec<Content> = parts.collect();
    let sector_bytes = number(&dir.join("queue/logical_block_size")).unwrap_or(512);
    let table = whole_disk::found(&mut disk, bytes, sector_bytes).unwrap_or_else(|error| {
        tracing::warn!("reading the partition table of {name}: {error}");
        None
    });
    let table = table.map(|table| with_users(table, &mut disk, &Users::of(&dir)));
    (whole.into_iter().chain(parts).collect(), table)
}

/// With why nothing may be written to its partitions, where that is so.
fn with_users(mut table: FoundTable, disk: &mut File, users: &Users) -> FoundTable {
    for part in &mut table.partitions {
        let member = || {
            let found = probe(disk, part.start_bytes, part.bytes).ok()?;
            found.part_of().map(str::to_owned)
        };
        part.in_use = users.of_partition(part.number).or_else(member);
    }
    table
}

/// Number, first sector and sectors of each partition that holds data.
fn partitions(dir: &Path) -> Vec<(u32, u64, u64)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<(u32, u64, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let part = entry.path();
            let sectors = number(&part.join("size")).filter(|size| *size > EXTENDED_SECTORS)?;
            Some((number(&part.join("partition"))?, number(&part.join("start"))?, sectors))
        })
        .collect();
    found.sort_unstable();
    found.truncate(PARTITION_LIMIT);
    found
}

fn unreadable(error: &std::io::Error) -> String {
    format!("unreadable ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_sys::block::{BlockDevice, OpenMode, Partition};
    use metalcast_sys::loopdev::{LoopDevice, Options};
    use std::process::Command;

    #[test]
    fn a_filesystem_in_a_partition_is_named_and_blank_ones_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(32 << 20).unwrap();
        let device = LoopDevice::attach(file.path(), Options::default()).unwrap();
        let name = device.path().file_name().unwrap().to_str().unwrap().to_owned();
        let contents = || read(Path::new("/sys"), Path::new("/dev"), &name).0;
        assert_eq!(contents(), []);
        let block = BlockDevice::open(device.path(), OpenMode::Read).unwrap();
        let part = |number, start: u64, length: u64| Partition {
            number,
            start_bytes: start << 20,
            length_bytes: length << 20,
        };
        block.set_partitions(&[part(1, 1, 4), part(5, 8, 16)]).unwrap();
        let node = block.wait_for_partition(5, Duration::from_secs(5)).unwrap();
        let made =
            Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", "slot"]).arg(&node).status();
        assert!(made.unwrap().success());
        let [found] = &contents()[..] else { panic!("{:?}", contents()) };
        assert_eq!((found.partition, found.bytes), (Some(5), 16 << 20));
        assert!(found.what.starts_with("ext4 \"slot\" "), "{}", found.what);
        drop(block);
        device.close().unwrap();
    }

    /// Opening a pipe that nobody writes to takes for ever.
    #[test]
    fn a_disk_that_does_not_answer_is_shown_as_such() {
        let dev = tempfile::tempdir().unwrap();
        let mkfifo = Command::new("mkfifo").arg(dev.path().join("stuck")).status();
        assert!(mkfifo.unwrap().success());
        File::create(dev.path().join("sound")).unwrap();
        let sys = tempfile::tempdir().unwrap();
        let disk = |name: &str| Disk { name: name.into(), ..Disk::default() };
        let look = |limit| {
            let disks = vec![disk("stuck"), disk("sound")];
            let disks = of_all(disks, sys.path(), dev.path(), limit);
            disks.iter().map(|disk| disk.contents.first().map(|it| it.what.clone())).collect()
        };
        let found: Vec<Option<String>> = look(Duration::from_millis(300));
        assert_eq!(found, [Some("does not answer".into()), None]);
        let started = Instant::now();
        let again: Vec<Option<String>> = look(Duration::from_secs(60));
        assert_eq!(again, found);
        assert!(started.elapsed() < Duration::from_secs(30), "no second thread waits for it");
    }

    #[test]
    fn what_cannot_be_opened_is_not_taken_for_blank() {
        let sys = tempfile::tempdir().unwrap();
        let [only] = &read(sys.path(), sys.path(), "sda").0[..] else { panic!() };
        assert!(only.what.starts_with("unreadable (No such file"), "{}", only.what);
    }
}
