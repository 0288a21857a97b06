//! The image store against the real tools: what they write is imported, what is stored they restore,
//! and what is damaged is refused without a trace.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod archive;
mod disks;
mod forms;
mod interrupted;
mod ocs;
mod out;
mod quota;
mod source;

use metalcast_controller::images::{ImageState, Images, ImportError, Sign, StoreError};
use metalcast_formats::chunk;
use metalcast_shared::{
    hash::Hash,
    id::{ImageName, Revision},
    manifest::{Chunk, Page, Partition},
};
use source::{DEVICE_BYTES, Source, restore, sh};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    error::Error,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// A store of its own for one test.
struct Store {
    dir: TempDir,
    images: Images,
}

fn sign() -> Sign {
    Arc::new(|root| [Hash::of(root).0, Hash::of(b"key").0].concat())
}

fn name() -> ImageName {
    "lab/debian-12".parse().unwrap()
}

fn revision(number: u32) -> Revision {
    Revision { image: name(), number }
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), sign()).unwrap();
        Self { dir, images }
    }

    fn import(&self, source: &Path) -> Result<Revision, ImportError> {
        self.images.import(source, &name(), &|_| {})
    }

    fn path(&self, revision: &Revision) -> PathBuf {
        self.dir.path().join(format!("lab/debian-12/{}", revision.number))
    }

    /// Everything in the store's directory.
    fn entries(&self) -> Vec<String> {
        sh(self.dir.path(), "find . -mindepth 1 | sort").lines().map(str::to_owned).collect()
    }

    /// The chunks of a partition, which must be the whole of its file behind the head.
    fn chunks(&self, revision: &Revision, partition: &Partition) -> Vec<Chunk> {
        let chunks: Vec<Chunk> =
            self.pages(revision, partition).into_iter().flat_map(|page| page.chunks).collect();
        let mut end = u64::from(partition.head_bytes);
        for chunk in &chunks {
            assert_eq!(chunk.offset, end, "frames follow each other");
            end += u64::from(chunk.frame_bytes);
        }
        assert_eq!(end, partition.file_bytes);
        let blocks: u64 = chunks.iter().map(|chunk| u64::from(chunk.blocks())).sum();
        assert_eq!(blocks, partition.used_blocks);
        chunks
    }

    fn pages(&self, revision: &Revision, partition: &Partition) -> Vec<Page> {
        (0..partition.pages.len())
            .map(|page| {
                let bytes = self.images.page(revision, &partition.name, page as u32).unwrap();
                partition.decode_page(page, &bytes).unwrap()
            })
            .collect()
    }

    /// The partition as an agent would write it, chunk by chunk.
    fn reassembled(&self, revision: &Revision, name: &str) -> Vec<u8> {
        let (manifest, _) = self.images.manifest(revision).unwrap();
        let partition = manifest.partition(name).unwrap();
        let mut device = vec![0; partition.device_bytes as usize];
        for chunk in self.chunks(revision, partition) {
            let frame = self.images.frame(revision, name, &chunk).unwrap();
            let data = chunk::open(&frame, &chunk, partition).unwrap();
            assert_eq!(chunk.zero, data.iter().all(|byte| *byte == 0));
            let mut rest = &data[..];
            for (offset, bytes) in chunk.extents(partition) {
                device[offset as usize..][..bytes].copy_from_slice(&rest[..bytes]);
                rest = &rest[bytes..];
            }
        }
        device
    }
}

fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn every_form_of_source_becomes_a_revision_that_partclone_restores() {
    let store = Store::new();
    for (at, (options, compress, suffix, split)) in [
        ("-a1", "pigz -c", "gz", "-b 1000000"),
        ("-a0", "gzip -1c", "gz", ""),
        ("-a1 -k1", "zstd -T0 -qc", "zst", "-a 3 -b 3MB"),
        ("-a1 -k16 -K", "cat", "uncomp", "-b 4MB"),
        ("-a1", "xz -0 -T2 --block-size=4MiB", "xz", "-b 4MB"),
        ("-a1", "lz4 -q", "lz4", "-b 4MB"),
        ("-a1", "lbzip2 -1", "bz2", "-b 4MB"),
        ("-a1", "lzop", "lzo", "-b 4MB"),
        ("-a1", "plzip -0", "lzip", "-b 4MB"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = Source::new(options, compress, suffix, split);
        let revision =
            store.import(&source.image()).unwrap_or_else(|e| panic!("{}", with_causes(&e)));
        assert_eq!(revision.to_string(), format!("lab/debian-12@{}", at + 1));
        assert_eq!(store.images.latest(&name()).unwrap(), Some(revision.clone()));

        let expected = source.restored();
        assert_eq!(expected.len() as u64, DEVICE_BYTES);
        assert!(
            store.reassembled(&revision, "sda5") == expected,
            "{options} {suffix}: chunks differ"
        );
        let stored = store.path(&revision);
        sh(&stored, "zstd -qt sda5.ext4-ptcl-img.zst && b2sum --quiet -c B2SUMS");
        let script = format!("zstd -qdc {}/sda5.ext4-ptcl-img.zst", stored.display());
        let dir = tempfile::tempdir().unwrap();
        assert!(restore(dir.path(), &script) == expected, "{options} {suffix}: partclone differs");
        sh(dir.path(), "e2fsck -fn restored");

        assert_eq!(
            sh(&stored, "ls"),
            "B2SUMS\ndisk\nmetalcast.manifest\nmetalcast.pages\nparts\nsda-mbr\nsda-pt.parted\n\
             sda-pt.sf\nsda5.ext4-ptcl-img.zst\n"
        );
        assert_eq!(sh(&stored, "cut -d ' ' -f 3 B2SUMS | wc -l"), "6\n");
        let mode =
            fs::metadata(stored.join("sda5.ext4-ptcl-img.zst")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "an image is readable by others");
    }
    let listed = store.images.list().unwrap();
    assert_eq!(listed.len(), 9);
    for summary in listed {
        let ImageState::Ready { partitions, provenance, .. } = summary.state else {
            panic!("{summary:?}");
        };
        assert_eq!(
            (partitions[0].name.as_str(), partitions[0].device_bytes),
            ("sda5", DEVICE_BYTES)
        );
        assert!(provenance.starts_with("Clonezilla directory /"), "{provenance}");
    }
    // A stored revision is a source again, and gives the same chunks.
    let again = store.import(&store.path(&revision(4))).unwrap();
    let of = |revision: &Revision| store.images.manifest(revision).unwrap().0.partitions;
    assert_eq!(of(&again), of(&revision(4)));
}

#[test]
fn damaged_sources_are_refused_and_leave_nothing() {
    let store = Store::new();
    let good = Source::new("-a1", "gzip -1c", "gz", "-b 4MB");
    for (script, expected) in [
        // A byte in the middle of a piece, found by gzip or by partclone's checksum.
        (
            "rm *SUMS; printf X | dd of=sda5.ext4-ptcl-img.gz.ac bs=1 seek=700000 conv=notrunc",
            &["sda5.ext4-ptcl-img.gz.ac at or shortly before byte ", "byte "][..],
        ),
        // The same with checksums: whoever notices first.
        (
            "printf X | dd of=sda5.ext4-ptcl-img.gz.ac bs=1 seek=700000 conv=notrunc",
            &["sda5.ext4-ptcl-img.gz.ac at or shortly before byte "],
        ),
        (
            "rm *SUMS; truncate -s -100000 $(ls *.gz.* | tail -1)",
            &["sda5.ext4-ptcl-img.gz.", "the image cannot be read on at byte "],
        ),
        (
            "rm *SUMS; gzip -dc $(ls *.gz.*) > x || cat *.gz.* | gzip -dc > x; rm *.gz.*; \
             truncate -s -5000 x; gzip -1c x > sda5.ext4-ptcl-img.gz; rm x",
            &["sda5.ext4-ptcl-img.gz at or shortly before byte ", "it was cut off"],
        ),
        ("rm *.ab", &["missing: sda5.ext4-ptcl-img.gz.ab", "listed in MD5SUMS"]),
        ("rm *SUMS *.ab", &["missing: sda5.ext4-ptcl-img.gz.ab"]),
        ("rm *SUMS $(ls *.gz.* | tail -1)", &["sda5.ext4-ptcl-img.gz."]),
        (
            "sed -i '/gz.ab/s/^..../0000/' MD5SUMS",
            &["sda5.ext4-ptcl-img.gz.ab does not match its checksum", "MD5SUMS says 0000"],
        ),
        (
            "sed -i \"/$(ls *.gz.* | tail -1)/s/^..../0000/\" B2SUMS",
            &["does not match its checksum", "B2SUMS says 0000"],
        ),
        (
            "sed -i '/sda-pt.sf/s/^..../0000/' MD5SUMS",
            &["sda-pt.sf does not match its checksum", "MD5SUMS says 0000"],
        ),
        ("truncate -s 65M notes", &["notes has 68157440 bytes, more than the 67108864"]),
        (
            "rm *SUMS *.gz.*; truncate -s 8T sda5.ext4-ptcl-img.uncomp",
            &["the import needs about 8388672 MiB", "MiB are free"],
        ),
        ("rm parts", &["missing: ", "parts (the list of saved partitions)"]),
    ] {
        let source = good.copy();
        source.change(script);
        let error = store.import(&source.image()).expect_err(script);
        let error = with_causes(&error);
        for part in expected {
            assert!(error.contains(part), "{script}: {part:?} is not in {error}");
        }
        assert_eq!(store.entries(), [""; 0], "{script}: left in the store");
    }
}

#[test]
fn a_damaged_store_is_noticed_and_named() {
    let store = Store::new();
    let source = Source::new("-a0", "zstd -qc", "zst", "");
    for _ in 0..3 {
        store.import(&source.image()).unwrap();
    }
    let (one, two, three) = (revision(1), revision(2), revision(3));
    let (manifest, _) = store.images.manifest(&one).unwrap();
    let partition = manifest.partition("sda5").unwrap();
    let chunk = store.pages(&one, partition)[0].chunks[5].clone();
    flip(&store.path(&one).join("sda5.ext4-ptcl-img.zst"), chunk.offset + 11);
    let error = store.images.frame(&one, "sda5", &chunk).unwrap_err().to_string();
    assert!(error.contains("1/sda5.ext4-ptcl-img.zst") && error.contains("is damaged"), "{error}");
    assert!(error.contains(&format!("byte {}", chunk.offset)), "{error}");
    flip(&store.path(&one).join("metalcast.pages"), 40);
    let error = store.images.page(&one, "sda5", 0).unwrap_err().to_string();
    assert!(error.contains("1/metalcast.pages") && error.contains("is damaged"), "{error}");

    // Any byte of the manifest; a data file that is shorter; the others are not affected.
    let path = store.path(&two).join("metalcast.manifest");
    let reopened = || Images::open(store.dir.path(), sign()).unwrap();
    for at in 0..fs::metadata(&path).unwrap().len() {
        flip(&path, at);
        let listed = reopened().list().unwrap();
        assert!(matches!(listed[1].state, ImageState::Damaged { .. }), "byte {at}: {listed:?}");
        assert!(matches!(listed[0].state, ImageState::Ready { .. }));
        assert!(matches!(reopened().manifest(&two), Err(StoreError::Damaged { .. })));
        flip(&path, at);
    }
    reopened().manifest(&two).unwrap();
    sh(&store.path(&two), "truncate -s -1 sda5.ext4-ptcl-img.zst; rm ../3/metalcast.pages");
    let listed = reopened().list().unwrap();
    for summary in &listed[1..] {
        let ImageState::Damaged { reason } = &summary.state else { panic!("{summary:?}") };
        assert!(reason.contains("import it again"), "{reason}");
    }

    // Removed and never numbered so again.
    store.images.remove(&three).unwrap();
    store.images.remove(&one).unwrap();
    assert!(matches!(store.images.remove(&three), Err(StoreError::NotFound(_))));
    assert!(matches!(store.images.manifest(&one), Err(StoreError::NotFound(_))));
    assert_eq!(store.images.latest(&name()).unwrap(), Some(two));
    assert_eq!(store.import(&source.image()).unwrap(), revision(4));
    assert!(matches!(
        store.images.page(&revision(4), "sda9", 0),
        Err(StoreError::NoPartition { .. })
    ));
    assert!(matches!(store.images.page(&revision(4), "sda5", 9), Err(StoreError::NoPage { .. })));
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_killed_import_is_cleared_away_and_a_running_one_is_not() {
    let store = Store::new();
    let left = |name: &str| store.dir.path().join(name);
    let names = [
        ".import-0123456789abcdef0123456789abcdef",
        ".removed-0123456789abcdef0123456789abcdef",
        ".import-mine",
        ".import-0123456789ABCDEF0123456789abcdef",
    ];
    for name in names {
        fs::create_dir(left(name)).unwrap();
        fs::write(left(name).join("file"), "x").unwrap();
    }
    fs::write(left(".import-1123456789abcdef0123456789abcdef"), "not a directory").unwrap();
    Images::open(store.dir.path(), sign()).unwrap();
    assert!(!left(names[0]).exists() && !left(names[1]).exists());
    assert!(left(names[2]).exists() && left(names[3]).exists());
    assert_eq!(store.images.list().unwrap(), []);
    sh(store.dir.path(), "rm -r .import-*");

    let source = Source::new("-a0", "gzip -1c", "gz", "");
    let (opened, seen) = (Cell::new(false), RefCell::new(Vec::new()));
    let revision = store.images.import(&source.image(), &name(), &|progress| {
        if !opened.replace(true) {
            Images::open(store.dir.path(), sign()).unwrap();
            assert_eq!(store.images.list().unwrap(), [], "listed before it is whole");
        }
        seen.borrow_mut().push((progress.done_bytes, progress.total_bytes));
    });
    assert!(opened.get());
    store.images.manifest(&revision.unwrap()).unwrap();
    let seen = seen.into_inner();
    assert!(seen.is_sorted());
    assert_eq!(seen.last().unwrap().0, seen.last().unwrap().1, "progress does not end at 100 %");

    // Whoever watches the import may fail; what was begun is removed.
    let before = store.entries();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.images.import(&source.image(), &name(), &|_| panic!("the watcher fails"))
    }));
    assert!(failed.is_err());
    assert_eq!(store.entries(), before);
}

#[test]
fn imports_at_the_same_time_get_numbers_of_their_own() {
    let store = Store::new();
    let source = Source::new("-a0", "zstd -qc", "zst", "");
    let numbers: BTreeSet<u32> = std::thread::scope(|scope| {
        let imports: Vec<_> =
            (0..3).map(|_| scope.spawn(|| store.import(&source.image()).unwrap().number)).collect();
        imports.into_iter().map(|import| import.join().unwrap()).collect()
    });
    assert_eq!(numbers, BTreeSet::from([1, 2, 3]));
    assert_eq!(store.images.list().unwrap().len(), 3);
}
