//! Partitions that partclone did not save: raw ones, and NTFS as ntfsclone saved it.

use crate::{
    Store,
    source::{Source, sh},
    with_causes,
};
use std::fs;

/// Adds two partitions to a source: one that nobody knows to read, and an NTFS, whose images are made
/// by these scripts from the files `raw` and `ntfs` beside it.
fn source_with(raw: &str, ntfs: &str) -> Source {
    let source = Source::new("-a0", "zstd -qc", "zst", "");
    source.change(&format!(
        "rm *SUMS; cd ..; head -c 3M /dev/urandom > raw; head -c 2049K /dev/zero >> raw
         truncate -s 40961K ntfs; mkfs.ntfs -q -F -f ntfs 2> /dev/null
         seq 1 90000 > text; ntfscp -q ntfs text text; ntfsclone -s -o saved ntfs; cd image
         printf '/dev/sda1 : start=1, size=1, type=da\\n/dev/sda2 : start=2, size=1, type=7\\n' >> sda-pt.sf
         echo sda1 sda2 sda5 > parts; {raw}; {ntfs}; md5sum * > ../sums; mv ../sums MD5SUMS"
    ));
    source
}

#[test]
fn raw_images_and_those_of_ntfsclone_become_what_clonezilla_restores() {
    let store = Store::new();
    for (raw, ntfs) in [
        (
            "lzop -c ../raw | split -b 1MB - sda1.dd-ptcl-img.lzo.",
            "gzip -c ../saved | split -b 1MB - sda2.ntfs-img.",
        ),
        ("cp ../raw sda1.dd-ptcl-img.uncomp", "cp ../saved sda2.ntfs-img"),
        ("cp ../raw sda1.dd-img.aa", "bzip2 -c ../saved > sda2.ntfs-img.aa"),
    ] {
        let source = source_with(raw, ntfs);
        let mut seen = Vec::new();
        let seen = std::cell::RefCell::new(&mut seen);
        let imported = store.images.import(&source.image(), &crate::name(), &|progress| {
            seen.borrow_mut().push((progress.done_bytes, progress.total_bytes));
        });
        let revision = imported.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        let seen = seen.into_inner();
        assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total));

        let beside = |name: &str| fs::read(source.image().with_file_name(name)).unwrap();
        assert!(store.reassembled(&revision, "sda1") == beside("raw"), "{raw}");
        sh(&source.image(), "cd ..; rm -f restored; ntfsclone -r -O restored saved");
        let (ours, theirs) = (store.reassembled(&revision, "sda2"), beside("restored"));
        // What is behind the last whole cluster is in no image of partclone's.
        let clusters = ours.len() / 4096 * 4096;
        assert!(ours[..clusters] == theirs[..clusters], "{ntfs}");

        // The real partclone takes both, and Clonezilla's check.
        let stored = store.path(&revision);
        sh(&stored, "b2sum --quiet -c B2SUMS");
        assert_eq!(sh(&stored, "cat parts; ls *.aa *-img 2>/dev/null || true"), "sda1 sda2 sda5\n");
        let script = "zstd -qdc sda1.dd-ptcl-img.zst | cmp - ORIGINAL/raw
            truncate -s 40961K ORIGINAL/back
            zstd -qdc sda2.ntfs-ptcl-img.zst | partclone.restore -L ORIGINAL/log -C -s - -O ORIGINAL/back
            ntfsfix -d ORIGINAL/back; ntfscat ORIGINAL/back text | cmp - ORIGINAL/text; rm ORIGINAL/back";
        let beside = source.image().parent().unwrap().display().to_string();
        sh(&stored, &script.replace("ORIGINAL", &beside));
    }
}

#[test]
fn damaged_raw_images_and_images_of_ntfsclone_are_refused_without_a_trace() {
    let store = Store::new();
    let good = source_with("gzip -c ../raw > sda1.dd-ptcl-img.gz", "cp ../saved sda2.ntfs-img");
    for (script, expected) in [
        ("truncate -s -9 sda1.dd-ptcl-img.gz", "sda1.dd-ptcl-img.gz at or shortly before byte "),
        (
            "gzip -dc *.gz | head -c 1000 > sda1.dd-ptcl-img.uncomp; rm *.gz",
            "the image ends at byte 1000",
        ),
        ("rm *.gz; gzip -c < /dev/null > sda1.dd-ptcl-img.gz", "an image without any content"),
        ("truncate -s -9 sda2.ntfs-img", "sda2 cannot be imported: sda2.ntfs-img at or shortly"),
        ("echo >> sda2.ntfs-img", "data behind the end"),
        (
            "head -c 99999 /dev/zero > sda2.ntfs-img",
            "sda2.ntfs-img is named as uncompressed but begins as",
        ),
    ] {
        let source = good.copy();
        source.change(&format!("rm *SUMS; {script}"));
        let error = with_causes(&store.import(&source.image()).expect_err(script));
        assert!(error.contains(expected), "{script}: {error}");
        assert_eq!(store.entries(), [""; 0], "{script}");
    }
}
