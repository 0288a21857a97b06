//! What the store does with what it holds: check, export and diff.

use crate::{
    Store, flip, name, revision, sign,
    source::{Source, restore, sh},
    with_causes,
};
use metalcast_controller::images::{ExportError, ExportOptions, Extent, Images, Packing, Progress};
use metalcast_shared::id::Revision;
use std::{
    cell::{Cell, RefCell},
    fs,
    num::NonZeroU64,
    path::Path,
};

impl Store {
    fn damage(&self, revision: &Revision) -> Vec<String> {
        self.images.check(revision, &|_| {}).unwrap().damage
    }

    fn export(&self, to: &Path, packing: Packing, split: u64) -> Result<(), ExportError> {
        let options = ExportOptions { packing, split_bytes: NonZeroU64::new(split) };
        self.images.export(&revision(1), to, options, &|_| {}).map(drop)
    }
}

/// A source with a raw partition too.
fn source() -> Source {
    let source = Source::new("-a0", "zstd -qc", "zst", "");
    source.change(
        "rm *SUMS; head -c 3M /dev/urandom | tee ../raw | zstd -qc > sda1.dd-ptcl-img.zst
         echo '/dev/sda1 : start=1, size=1, type=da' >> sda-pt.sf; echo sda1 sda5 > parts
         echo log > clonezilla-img; echo id > Info-img-id.txt",
    );
    source
}

#[test]
fn a_sound_revision_is_proved_and_every_damage_is_found() {
    let (store, source) = (Store::new(), source());
    let good = store.import(&source.image()).unwrap();
    let seen = RefCell::new(Vec::new());
    let note = |at: Progress| seen.borrow_mut().push((at.done_bytes, at.total_bytes));
    let report = store.images.check(&good, &note).unwrap();
    assert_eq!(report.damage, [""; 0]);
    let (manifest, _) = store.images.manifest(&good).unwrap();
    let chunks: u32 = manifest.partitions.iter().map(|partition| partition.chunks).sum();
    assert_eq!((report.chunks, report.files), (u64::from(chunks), 9));
    let seen = seen.into_inner();
    assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total));
    assert_eq!(report.bytes, seen.last().unwrap().1);

    let dir = store.path(&good);
    let partition = manifest.partition("sda5").unwrap();
    let chunks = store.chunks(&good, partition);
    // One byte of a file, what is said of it, and how many times.
    let file = "sda5.ext4-ptcl-img.zst";
    for (name, at, expected, times) in [
        (file, chunks[3].offset + 9, format!("byte {}: chunk ", chunks[3].offset), 3),
        (file, 30, "does not match its checksum in B2SUMS".to_owned(), 2),
        ("sda1.dd-ptcl-img.zst", 7, "the frame is not the one in the manifest".into(), 3),
        ("sda-mbr", 5, "sda-mbr does not match its checksum: B2SUMS says".into(), 1),
        ("parts", 0, "belongs to a partition that `parts` does not list".into(), 1),
        ("metalcast.pages", 40, "hash to".into(), 2),
        ("metalcast.manifest", 40, "altered, or signed by another controller".into(), 1),
    ] {
        flip(&dir.join(name), at);
        let damage = store.damage(&good);
        assert!(damage.iter().any(|one| one.contains(&expected)), "{name}: {damage:#?}");
        assert!((1..=times).contains(&damage.len()), "{name}: {damage:#?}");
        flip(&dir.join(name), at);
    }
    assert_eq!(store.damage(&good), [""; 0]);
    for (script, expected) in [
        ("echo more > notes", "notes is in no list of checksums"),
        ("rm sda-mbr", "sda-mbr (listed in B2SUMS)"),
        ("sed -i /sda5.ext4/d B2SUMS", "it is not in the list of checksums"),
        ("truncate -s -1 sda5.ext4-ptcl-img.zst", "the file has "),
        ("rm sda1.dd-ptcl-img.zst", "the file is missing"),
    ] {
        let kept = tempfile::tempdir().unwrap();
        sh(&dir, &format!("cp -a . {}; {script}", kept.path().display()));
        let damage = store.damage(&good);
        assert!(damage.iter().any(|one| one.contains(expected)), "{script}: {damage:#?}");
        sh(&dir, &format!("rm -r -- *; cp -a {}/. .", kept.path().display()));
    }
    assert_eq!(store.damage(&good), [""; 0]);
    assert!(store.images.check(&revision(9), &|_| {}).is_err());
}

#[test]
fn an_export_is_what_the_real_tools_restore() {
    let (store, source) = (Store::new(), source());
    store.import(&source.image()).unwrap();
    let expected = source.restored();
    let dir = tempfile::tempdir().unwrap();
    for (at, (packing, split, suffix, decompress)) in [
        (Packing::Gzip, 0, "gz", "gzip -dc"),
        (Packing::Gzip, 4 << 20, "gz", "gzip -dc"),
        (Packing::Zstd, 0, "zst", "zstd -qdc"),
        (Packing::Zstd, 1 << 16, "zst", "zstd -qdc"),
        (Packing::None, 0, "uncomp", "cat"),
        (Packing::None, 10_000_000, "uncomp", "cat"),
    ]
    .into_iter()
    .enumerate()
    {
        let to = dir.path().join(at.to_string());
        store.export(&to, packing, split).unwrap_or_else(|e| panic!("{}", with_causes(&e)));
        sh(&to, "md5sum --quiet -c MD5SUMS && b2sum --quiet -c B2SUMS");
        let files = sh(&to, "ls | grep -v ptcl-img");
        let others = "B2SUMS\nInfo-img-id.txt\nMD5SUMS\nclonezilla-img\ndisk\nparts\nsda-mbr\n\
            sda-pt.parted\nsda-pt.sf\n";
        assert_eq!(files, others);
        let script = format!("cat {}/sda5.ext4-ptcl-img.{suffix}* | {decompress}", to.display());
        assert!(restore(dir.path(), &script) == expected, "{packing:?} {split}");
        sh(
            &to,
            &format!(
                "cat sda1.dd-ptcl-img.{suffix}* | {decompress} | cmp - {}",
                source.image().with_file_name("raw").display()
            ),
        );
        if split > 0 {
            let sizes = format!("stat -c %s sda5.ext4-ptcl-img.{suffix}.* | head -n -1 | sort -u");
            assert_eq!(sh(&to, &sizes), format!("{split}\n"), "{packing:?}");
            assert!(to.join(format!("sda1.dd-ptcl-img.{suffix}.aa")).exists());
        }
        // It is a source again, with the same chunks.
        let again = store.import(&to).unwrap_or_else(|e| panic!("{}", with_causes(&e)));
        let of = |revision: &Revision| store.images.manifest(revision).unwrap().0.partitions;
        assert_eq!(of(&again), of(&revision(1)));
        store.images.remove(&again).unwrap();
    }
    assert_eq!(sh(dir.path(), "ls -d .metalcast* 2> /dev/null || true"), "");
}

#[test]
fn an_export_that_fails_leaves_nothing() {
    let (store, source) = (Store::new(), source());
    let good = store.import(&source.image()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let in_store = store.entries();
    let nothing = |what: &str| {
        assert_eq!(sh(dir.path(), "ls -A"), "", "{what}");
        assert_eq!(store.entries(), in_store, "{what}");
    };
    let fails = |to: &Path, split: u64, expected: &str| {
        let error = with_causes(&store.export(to, Packing::Gzip, split).expect_err(expected));
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    };
    let to = dir.path().join("to");
    fails(dir.path(), 0, "exists already");
    fails(&to.join("deeper"), 0, "No such file or directory");
    fails(Path::new("/"), 0, "exists already");
    fails(&to, 100, "would be cut into more than 17576 pieces; choose a larger --split");
    nothing("refused");

    // A damaged chunk, head and side file.
    let (manifest, _) = store.images.manifest(&good).unwrap();
    let chunk = store.chunks(&good, manifest.partition("sda5").unwrap())[9].clone();
    for (name, at, expected) in [
        (
            "sda5.ext4-ptcl-img.zst",
            chunk.offset + 11,
            "sda5 cannot be read; `metalcast image check`",
        ),
        ("sda5.ext4-ptcl-img.zst", 30, "the image store is damaged"),
        ("sda-mbr", 3, "sda-mbr cannot be copied"),
    ] {
        flip(&store.path(&good).join(name), at);
        let error = store.export(&to, Packing::Gzip, 0).expect_err(name);
        let error = with_causes(&error);
        // A head may be damaged so that it does not decompress.
        assert!(
            error.contains(expected) || at == 30 && error.contains("reading"),
            "{name}: {error}"
        );
        flip(&store.path(&good).join(name), at);
        nothing(name);
    }

    // Whoever watches it fails; the place is taken meanwhile.
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.images.export(&good, &to, ExportOptions::default(), &|_| panic!("the watcher fails"))
    }));
    assert!(panics.is_err());
    nothing("a panic");
    let taken = store.images.export(&good, &to, ExportOptions::default(), &|_| {
        fs::create_dir_all(&to).unwrap();
    });
    assert!(with_causes(&taken.unwrap_err()).contains("exists"));
    fs::remove_dir(&to).unwrap();
    nothing("taken meanwhile");

    // A crash leaves what the next start removes; one that is under way is left alone.
    let begun = Cell::new(false);
    let exported = store.images.export(&good, &to, ExportOptions::default(), &|_| {
        if !begun.replace(true) {
            let kept = dir.path().join("kept");
            sh(dir.path(), "ls -d .metalcast-export-*; test ! -e to");
            Images::open(store.dir.path(), sign()).unwrap();
            sh(dir.path(), "ls -d .metalcast-export-*");
            sh(store.dir.path(), &format!("cp -a .export-* {}", kept.display()));
        }
    });
    exported.unwrap();
    sh(dir.path(), "rm -r to");
    let note = fs::read_to_string(dir.path().join("kept/path")).unwrap();
    let random = note.rsplit('-').next().unwrap();
    sh(dir.path(), &format!("mkdir {note}; touch {note}/half; mkdir other"));
    let kept = store.dir.path().join(format!(".export-{random}"));
    sh(dir.path(), &format!("mv kept {}", kept.display()));
    // One that names something else is not believed.
    let forged = store.dir.path().join(".export-0123456789abcdef0123456789abcdef");
    fs::create_dir(&forged).unwrap();
    fs::write(forged.join("path"), dir.path().join("other").to_str().unwrap()).unwrap();
    Images::open(store.dir.path(), sign()).unwrap();
    assert_eq!(sh(dir.path(), "ls -A"), "other\n");
    assert_eq!(store.entries(), in_store);
}

#[test]
fn two_revisions_are_compared_chunk_by_chunk() {
    let (store, source) = (Store::new(), source());
    let one = store.import(&source.image()).unwrap();
    // A file more in the filesystem, and no raw partition.
    let changed = source.copy();
    changed.change(&format!(
        "cp {} ../fs; seq 1 50000 > ../new; debugfs -w -R 'write ../new new' ../fs 2> /dev/null
         partclone.ext4 -L ../log -c -a0 -s ../fs -o ../plain; rm sda5.*
         zstd -qc ../plain > sda5.ext4-ptcl-img.zst; rm sda1.*; echo sda5 > parts",
        source.image().with_file_name("fs").display()
    ));
    let two = store.import(&changed.image()).unwrap();
    let same = store.images.diff(&one, &one).unwrap();
    for partition in &same.partitions {
        assert_eq!((partition.a, partition.b), (partition.shared, partition.shared));
        assert_eq!(partition.to_send_bytes, 0);
    }
    let diff = store.images.diff(&one, &two).unwrap();
    let [raw, data] = &diff.partitions[..] else { panic!("{diff:?}") };
    assert_eq!((raw.name.as_str(), raw.a.chunks, raw.b), ("sda1", 3, Extent::default()));
    assert_eq!((raw.a.bytes, raw.to_send_bytes), (3 << 20, 0));
    assert!(data.shared.chunks > 10 && data.shared.chunks < data.b.chunks, "{data:?}");
    assert!(data.shared.bytes < data.b.bytes && data.b.bytes > data.a.bytes, "{data:?}");

    // What is not shared is what would be sent: counted by hand.
    let manifest = |revision: &Revision| store.images.manifest(revision).unwrap().0;
    let chunks = |revision| store.chunks(revision, manifest(revision).partition("sda5").unwrap());
    let (old, new) = (chunks(&one), chunks(&two));
    let is_shared = |chunk: &&metalcast_shared::manifest::Chunk| {
        old.iter().any(|one| {
            (one.index, &one.runs, one.data_hash) == (chunk.index, &chunk.runs, chunk.data_hash)
        })
    };
    assert_eq!(new.iter().filter(is_shared).count() as u64, data.shared.chunks);
    let to_send = new.iter().filter(|chunk| !is_shared(chunk));
    let to_send: u64 = to_send.map(|chunk| u64::from(chunk.frame_bytes)).sum();
    assert_eq!(to_send, data.to_send_bytes);
    let back = store.images.diff(&two, &one).unwrap();
    let names: Vec<_> = back.partitions.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["sda5", "sda1"]);
    assert_eq!(back.partitions[0].shared.chunks, data.shared.chunks);
    assert_eq!(name(), one.image);
}
