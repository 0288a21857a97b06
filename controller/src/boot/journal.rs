//! The lease journal on disk: appended and flushed before a lease is confirmed.
//!
//! After an error the file's tail is unknown, and a flush that failed once says nothing later
//! (Linux reports a write error once). So the journal is then *broken*, and the next record goes
//! into a new file with everything that must be remembered.

use anyhow::Context;
use metalcast_netboot::dhcp::lease::{LeaseRecord, LeaseTable};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest journal read: a /16 full of leases, twice, has under 20 MiB.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// The file, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sound,
    Broken,
}

impl Journal {
    /// Opens the journal, or begins one, and reads the leases in it. A line torn by a power cut is
    /// cut off: its lease was never confirmed.
    pub fn open(path: &Path) -> anyhow::Result<(Self, LeaseTable)> {
        let context = || format!("opening the lease journal {}", path.display());
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(context)?;
        let mut bytes = Vec::new();
        (&file).take(MAX_JOURNAL_BYTES + 1).read_to_end(&mut bytes).with_context(context)?;
        if bytes.len() as u64 > MAX_JOURNAL_BYTES {
            anyhow::bail!(
                "the lease journal {} has more than {MAX_JOURNAL_BYTES} bytes: move it away, \
                 machines then get new addresses",
                path.display()
            );
        }
        let replay = LeaseTable::replay(&bytes);
        if replay.damaged > 0 {
            let damaged = replay.damaged;
            tracing::warn!(path = %path.display(), damaged, "damaged lines in the lease journal");
        }
        if replay.whole_len < bytes.len() as u64 {
            tracing::info!(path = %path.display(), "cut a torn line off the lease journal");
            file.set_len(replay.whole_len).with_context(context)?;
            file.sync_all().with_context(context)?;
        }
        if is_new {
            sync_parent(path).with_context(context)?;
        }
        let journal = Self {
            path: path.to_owned(),
            file,
            lines: replay.lines + replay.damaged,
            state: State::Sound,
        };
        Ok((journal, replay.table))
    }

    /// Makes `records` durable. `table` holds them already; the journal is rewritten from it when
    /// it is mostly history, or broken. After an error none of the records counts as durable.
    pub fn append(&mut self, records: &[LeaseRecord], table: &LeaseTable) -> io::Result<()> {
        if self.state == State::Broken || table.wants_compaction(self.lines) {
            return self.rewrite(table);
        }
        let text: String = records.iter().map(LeaseRecord::to_line).collect();
        let result = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        match result {
            Ok(()) => self.lines += records.len(),
            Err(_) => self.state = State::Broken,
        }
        result
    }

    /// Writes a new journal beside the old one and renames it.
    fn rewrite(&mut self, table: &LeaseTable) -> io::Result<()> {
        self.state = State::Broken;
        let text = table.compact();
        let temporary = self.path.with_extension("journal.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.lines = text.lines().count();
        self.state = State::Sound;
        Ok(())
    }
}

/// A new name is durable once its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalcast_netboot::dhcp::lease::Holder;
    use metalcast_shared::id::Mac;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn record(number: u8, expires_unix: u64) -> LeaseRecord {
        LeaseRecord {
            ip: Ipv4Addr::new(10, 77, 0, number),
            expires_unix,
            holder: Holder::Client { mac: Mac([2, 0, 0, 0, 0, number]), hostname: None },
        }
    }

    fn append(journal: &mut Journal, table: &mut LeaseTable, record: &LeaseRecord) {
        table.apply(record);
        journal.append(std::slice::from_ref(record), table).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Power is cut at any byte, and the controller goes on from there: every lease whose line
        /// was whole is there, and later ones are too.
        #[test]
        fn a_torn_tail_costs_only_its_own_record(
            numbers in prop::collection::vec(1u8..20, 1..12),
            cut: prop::sample::Index,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("leases.journal");
            let (mut journal, mut table) = Journal::open(&path).unwrap();
            for (at, number) in numbers.iter().enumerate() {
                append(&mut journal, &mut table, &record(*number, 1000 + at as u64));
            }
            let bytes = fs::read(&path).unwrap();
            let cut = cut.index(bytes.len() + 1);
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            let mut expected = LeaseTable::default();
            for (at, number) in numbers.iter().enumerate().take(whole) {
                expected.apply(&record(*number, 1000 + at as u64));
            }
            let (mut journal, mut table) = Journal::open(&path).unwrap();
            prop_assert_eq!(&table, &expected);
            append(&mut journal, &mut table, &record(99, 5));
            expected.apply(&record(99, 5));
            prop_assert_eq!(Journal::open(&path).unwrap().1, expected);
        }
    }

    #[test]
    fn history_is_compacted_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.journal");
        let (mut journal, mut table) = Journal::open(&path).unwrap();
        let mut longest = 0;
        for round in 0..1200 {
            append(&mut journal, &mut table, &record(1 + (round % 3) as u8, round));
            longest = longest.max(fs::read_to_string(&path).unwrap().lines().count());
        }
        assert!((1000..1100).contains(&longest), "{longest}");
        assert!(fs::read_to_string(&path).unwrap().lines().count() < 300);
        assert_eq!(Journal::open(&path).unwrap().1, table);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn after_an_error_the_journal_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.journal");
        let (mut journal, mut table) = Journal::open(&path).unwrap();
        append(&mut journal, &mut table, &record(1, 10));
        // Every write to /dev/full fails with ENOSPC.
        journal.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        table.apply(&record(2, 20));
        journal.append(&[record(2, 20)], &table).unwrap_err();
        append(&mut journal, &mut table, &record(3, 30));
        append(&mut journal, &mut table, &record(4, 40));
        assert_eq!(Journal::open(&path).unwrap().1, table);
    }
}
