//! Clonezilla directories and the streams in them: what is complete is understood, everything else
//! is refused with the name of the file.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::{
    clonezilla::{Directory, DirectoryError, TableKind},
    partclone::{ReadError, Reader},
    stream::{self, Compression, StreamError},
};
use proptest::prelude::*;
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};
use tempfile::TempDir;

const SFDISK: &str = "label: dos\nlabel-id: 0x12345678\ndevice: /dev/sda\nunit: sectors\n\n\
    /dev/sda1 : start=2048, size=128, type=83\n";
const PARTED: &str = "Model: ATA QEMU (scsi)\nDisk /dev/sda: 409600s\n\
    Sector size (logical/physical): 512B/4096B\nPartition Table: msdos\nDisk Flags:\n";

/// A directory in which whole-disk images are built file by file.
struct Image(TempDir);

impl Image {
    /// A complete image of a disk with one partition, compressed by the real gzip.
    fn complete() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        image.put("disk", "sda\n").put("parts", "sda1\n").put("sda-pt.sf", SFDISK);
        image
            .put("sda-pt.parted", PARTED)
            .put("clonezilla-img", "log\n### Image created time: 2024-0501-1230\n");
        fs::copy(fixture(), image.path("plain")).unwrap();
        image.sh("gzip -c plain > sda1.ext4-ptcl-img.gz; rm plain");
        image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: &str) -> &Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn sh(&self, script: &str) -> &Self {
        let output =
            Command::new("sh").args(["-ec", script]).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        self
    }

    fn open(&self) -> Result<Directory, DirectoryError> {
        Directory::open(self.0.path())
    }

    fn refusal(&self) -> String {
        self.open().expect_err("the image is accepted").to_string()
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/partclone/ext2-v2-crc32.img")
}

/// Reads the only partition of an image to its end.
fn read(image: &Image) -> Result<u64, Box<dyn Error>> {
    let mut directory = image.open()?;
    let partition = directory.partitions.remove(0);
    let opened = stream::open(partition.pieces, partition.compression)?;
    let reader = Reader::open(opened.stream)?;
    let used = reader.used_blocks();
    reader.finish()?;
    assert_eq!(opened.progress.bytes(), opened.progress.total_bytes());
    Ok(used)
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
fn a_complete_image_is_understood() {
    let directory = Image::complete().put("sda-mbr", "code").open().unwrap();
    assert_eq!(directory.disks, ["sda"]);
    let table = &directory.tables[0];
    assert_eq!((table.kind, table.sectors, table.sector_bytes), (TableKind::Mbr, 409_600, 512));
    let partition = &directory.partitions[0];
    assert_eq!(
        (partition.name.as_str(), partition.filesystem.as_str(), partition.compression),
        ("sda1", "ext4", Some(Compression::Gzip))
    );
    let side: Vec<_> = directory.side_files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(side, ["clonezilla-img", "disk", "parts", "sda-mbr", "sda-pt.parted", "sda-pt.sf"]);
    assert_eq!(directory.saved.as_deref(), Some("2024-0501-1230"));
}

#[test]
fn every_way_to_compress_and_split_that_is_supported_is_read() {
    for script in [
        "true",
        "gunzip *.gz; mv sda1.ext4-ptcl-img sda1.ext4-ptcl-img.uncomp",
        "gunzip *.gz; zstd -q --rm sda1.ext4-ptcl-img",
        // Several members and frames, cut within them.
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do gzip -c $f; done > whole; split -b 777 whole sda1.ext4-ptcl-img.gz.; rm x* whole",
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do zstd -qc $f; done > whole; split -a 3 -b 5 whole sda1.ext4-ptcl-img.zst.; rm x* whole",
        "gunzip *.gz; lz4 -qm --rm sda1.ext4-ptcl-img",
        "gunzip *.gz; lz4 -qm --rm -12 -B4 -BD -BX --content-size --no-frame-crc sda1.ext4-ptcl-img",
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do lz4 -qc $f; printf 'P*M\\030\\03\\0\\0\\0???'; done > whole; \
         split -b 777 whole sda1.ext4-ptcl-img.lz4.; rm x* whole",
        "gunzip *.gz; xz sda1.ext4-ptcl-img",
        "gunzip *.gz; xz -9e -T2 --block-size=7000 --check=sha256 sda1.ext4-ptcl-img",
        "gunzip *.gz; xz -0 --check=crc32 sda1.ext4-ptcl-img",
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do xz --check=none -c $f; head -c 8 /dev/zero; done > whole; \
         split -b 777 whole sda1.ext4-ptcl-img.xz.; rm x* whole",
        "gunzip *.gz; xz --format=lzma sda1.ext4-ptcl-img",
        // Names of old, compression unknown.
        "mv sda1.ext4-ptcl-img.gz sda1.ext4-img.aa",
        "gunzip *.gz; mv sda1.ext4-ptcl-img sda1.ext3-ptcl-img",
        "rename() { mv sda1.ext4-ptcl-img.gz $1; echo hda1 > parts; rm disk sda-*; }; \
         rename hda1.ext3-ptcl-img",
        "split -b 100 sda1.ext4-ptcl-img.gz hda1.ext3-ptcl-img.; echo hda1 > parts; rm disk sda*",
    ] {
        let image = Image::complete();
        image.sh(script).sh("md5=$(md5sum *) sha1=$(sha1sum *) b2=$(b2sum *); \
            echo \"$md5\" > MD5SUMS; echo \"$sha1\" > SHA1SUMS; echo \"$b2\" > B2SUMS");
        assert_eq!(read(&image).map_err(|e| with_causes(&*e)), Ok(24), "{script}");
    }
}

#[test]
fn what_is_missing_is_named() {
    for (script, missing) in [
        ("rm sda1*", "sda1.*-ptcl-img.* (the data of partition sda1)"),
        ("rm parts", "parts (the list of saved partitions)"),
        ("rm *.sf", "sda-pt.sf (the partition table of sda)"),
        ("rm *.parted", "sda-pt.parted (size and partition table of sda)"),
        ("split -b 100 *.gz sda1.ext4-ptcl-img.gz.; rm *.gz *.ac", "sda1.ext4-ptcl-img.gz.ac"),
        ("split -b 100 *.gz sda1.ext4-ptcl-img.gz.; rm *.gz *.aa", "sda1.ext4-ptcl-img.gz.aa"),
        ("touch sda-mbr; md5sum * > MD5SUMS; rm sda-mbr", "sda-mbr (listed in MD5SUMS)"),
    ] {
        let error = Image::complete().sh(script).refusal();
        assert!(error.ends_with(&format!("missing: {missing}")), "{script}: {error}");
    }
    // Several at once; an image of partitions only has no disk.
    let error = Image::complete().sh("rm parts *.sf *.parted").refusal();
    assert_eq!(error.rsplit("missing: ").next().unwrap().split("; ").count(), 3, "{error}");
    let directory = Image::complete().sh("rm disk *.sf *.parted").open().unwrap();
    assert!(directory.disks.is_empty() && directory.tables.is_empty());
}

#[test]
fn what_goes_into_no_slot_is_left_out_and_named() {
    let image = Image::complete();
    let table = "/dev/sda2 : start=     4096, size=    90000, Id= 5\n\
        /dev/sda5 : start= 8192, size= 128, type=82\n/dev/sda6 : start= 9000, size=128, type=83\n";
    image.put("sda-pt.sf", &format!("{SFDISK}{table}")).put("parts", "/dev/sda3 sda1 sda6\n");
    image.put("sda3.dd-ptcl-img.gz", "").put("sda6.ntfs-img.aa", "").put("swappt-sda5.info", "");
    let directory = image.open().unwrap();
    assert_eq!(
        directory.left_out(),
        "sda3 (a raw (dd) image), sda6 (an image made by ntfsclone), sda2 (extended), sda5 (swap)"
    );
    assert_eq!((directory.partitions.len(), directory.parts.as_str()), (1, "sda1\n"));
    let side: Vec<_> = directory.side_files.iter().map(|file| file.name.as_str()).collect();
    assert!(side.contains(&"swappt-sda5.info") && !side.iter().any(|name| name.contains("-img.")));
    let error = image.sh("rm sda1.*; echo sda3 sda6 > parts").refusal();
    assert!(error.contains("nothing that can be imported, only sda3 (a raw (dd)"), "{error}");
    assert_eq!(Image::complete().open().unwrap().left_out(), "");
}

#[test]
fn what_cannot_be_restored_is_refused_by_name() {
    for (script, reason) in [
        ("mv *.gz sda1.ext4-ptcl-img.rar", "sda1.ext4-ptcl-img.rar: the compression .rar is not"),
        ("echo vg /dev/sda1 uuid > lvm_vg_dev.list", "lvm_vg_dev.list: LVM is not supported yet"),
        ("cp *.gz sda2.ext4-ptcl-img.gz", "sda2.ext4-ptcl-img.gz: belongs to a partition that"),
        (
            "cp *.gz sda1.ext3-ptcl-img.gz",
            "sda1.ext4-ptcl-img.gz: a second image of partition sda1",
        ),
        ("echo sda1 ../x > parts", "parts: \"../x\" is not a device name"),
        ("echo sda1 sda1 > parts", "parts: sda1 is listed twice"),
        (
            "echo 'Disk /dev/sda: big' > sda-pt.parted",
            "sda-pt.parted: does not say how many sectors",
        ),
        ("echo zz  parts > MD5SUMS", "MD5SUMS: line 1 is not a checksum and a file name"),
        ("ln -s /etc/passwd sda-mbr", "sda-mbr: is a link to /etc/passwd, outside of the image"),
        ("mkfifo sda-mbr", "sda-mbr: is neither a file nor a directory"),
        ("truncate -s 5M parts", "parts: 5242880 bytes are too long for this text file"),
    ] {
        let error = Image::complete().sh(script).refusal();
        assert!(error.starts_with(reason), "{script}: {error}");
    }
    // Links within the directory are how Clonezilla renames disks.
    Image::complete().sh("mv sda-pt.sf real; ln -s real sda-pt.sf").open().unwrap();
}

#[test]
fn streams_that_are_not_what_their_name_says_are_refused() {
    for (script, expected) in [
        ("mv *.gz sda1.ext4-ptcl-img.zst", "is named as zstd but begins as gzip"),
        ("gunzip -c *.gz > x; mv x *.gz", "named as gzip but begins as an uncompressed partclone"),
        ("echo hello | tee *.gz", "is named as gzip but begins as nothing known"),
        ("gunzip *.gz; bzip2 sda1.ext4-ptcl-img", "bzip2 compression is not supported yet"),
        (
            "gunzip *.gz; xz --lzma2=dict=256MiB sda1.ext4-ptcl-img",
            "a dictionary of 256 MiB is needed, and 64 MiB is the limit",
        ),
        ("gunzip *.gz; xz --x86 --lzma2 sda1.ext4-ptcl-img", "a filter other than LZMA2"),
        (
            "gunzip *.gz; xz sda1.ext4-ptcl-img; printf more | tee -a *.xz",
            "what follows a stream is not another",
        ),
        (
            "gunzip *.gz; xz --format=lzma --lzma1=dict=256MiB sda1.ext4-ptcl-img",
            "sda1.ext4-ptcl-img.lzma cannot be read: needed memory too big",
        ),
        (
            "gunzip *.gz; lz4 -qm --rm sda1.ext4-ptcl-img; printf more | tee -a *.lz4",
            "what follows a frame is not another",
        ),
        ("truncate -s -9 *.gz", "the image cannot be read on at byte"),
        ("printf XYZ | tee -a *.gz", "the image cannot be read on at byte 24702 (the end)"),
        (
            "gzip < /dev/null | tee -a *.gz; gzip < parts | tee -a *.gz",
            "byte 24702: data follows after",
        ),
        ("md5sum *.gz > MD5SUMS; gunzip *.gz; gzip -1 *img", "MD5SUMS says"),
        (
            "b2sum *.gz | tr 0 1 > B2SUMS",
            "sda1.ext4-ptcl-img.gz does not match its checksum: B2SUMS",
        ),
    ] {
        let image = Image::complete();
        image.sh(script);
        let error = read(&image).expect_err(script);
        let error = with_causes(&*error);
        assert!(error.contains(expected), "{script}: {error}");
    }
}

/// Whatever byte is damaged or missing at the end: in these formats all of them matter.
#[test]
fn xz_and_lz4_notice_every_flipped_byte_and_every_cut() {
    for compress in [
        "xz --check=crc64 --block-size=9000",
        "xz --check=sha256",
        // Without block checksums, some other bytes mean the same content.
        "lz4 -qm --rm -B4 -BX --content-size",
        "lz4 -qm --rm -BD -BX",
    ] {
        let image = Image::complete();
        image.sh(&format!("gunzip *.gz; {compress} sda1.ext4-ptcl-img"));
        assert_eq!(read(&image).map_err(|error| with_causes(&*error)), Ok(24), "{compress}");
        let piece = image.open().unwrap().partitions.remove(0).pieces.remove(0);
        let good = fs::read(&piece.path).unwrap();
        let refuses = |bytes: &[u8], what: String| {
            fs::write(&piece.path, bytes).unwrap();
            let error = read(&image).expect_err(&format!("{compress}: {what}"));
            assert!(error.is::<ReadError>() || error.is::<StreamError>(), "{error}");
        };
        let edges = || (0..64).chain(good.len() - 64..good.len());
        for at in edges().chain((64..good.len() - 64).step_by(41)) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            refuses(&bad, format!("byte {at} of {}", good.len()));
            refuses(&good[..at], format!("cut at {at} of {}", good.len()));
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_in_the_compressed_stream_is_noticed_and_placed() {
    let image = Image::complete();
    image.sh("gunzip *.gz; zstd -q --rm sda1.ext4-ptcl-img; split -b 300 *.zst sda1.ext4-ptcl-img.zst.; rm *.zst");
    let pieces = image.open().unwrap().partitions.remove(0).pieces;
    let mut refused = 0;
    for piece in &pieces {
        let good = fs::read(&piece.path).unwrap();
        for at in (0..good.len()).step_by(53) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&piece.path, bad).unwrap();
            match read(&image) {
                Err(error) => {
                    assert!(error.is::<ReadError>() || error.is::<StreamError>(), "{error}");
                    refused += 1;
                }
                // Some bits of a zstd header mean nothing.
                Ok(used) => assert_eq!(used, 24),
            }
        }
        fs::write(&piece.path, good).unwrap();
    }
    assert!(refused > 5 * pieces.len() / 2, "{refused} of {} pieces", pieces.len());
    read(&image).unwrap();
}

/// The fixture as the real tools compress it.
static COMPRESSED: LazyLock<[(&str, Vec<u8>); 3]> = LazyLock::new(|| {
    [("xz", "xz -c"), ("lzma", "xz --format=lzma -c"), ("lz4", "lz4 -qc -BD")].map(
        |(suffix, tool)| {
            let output = Command::new("sh")
                .args(["-c", &format!("{tool} {}", fixture().display())])
                .output()
                .unwrap();
            assert!(output.status.success(), "{tool}");
            (suffix, output.stdout)
        },
    )
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is damaged in a compressed stream, an answer comes.
    #[test]
    fn any_damage_to_a_compressed_stream_is_answered(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (suffix, good) = &COMPRESSED[which];
        let mut bytes = good.clone();
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        let image = Image(tempfile::tempdir().unwrap());
        image.put("parts", "sda1");
        fs::write(image.path(&format!("sda1.ext4-ptcl-img.{suffix}")), bytes).unwrap();
        let _ = read(&image);
    }

    /// Whatever lies in a directory under whatever name: an answer, and no panic.
    #[test]
    fn any_directory_is_read_or_refused(
        files in prop::collection::vec(
            ("(sda1|sd[a-z]|x)?[.](ext4|dd|[a-z]{0,3})(-ptcl)?-img[.]?(gz|zst|uncomp)?([.][a-z]{0,5})?|[A-Z0-9]{1,3}SUMS|lvm_vg_dev[.]list",
             "[ -~\n]{0,40}"),
            0..6,
        ),
        parts in "(sda1|sd[a-z] |[ -~]{0,4}){0,3}",
        parted in "(Disk /dev/sda: [0-9]{0,30}s?|Sector size[: 0-9B]{0,30}|[ -~\n]{0,20}|Partition Table: gpt\n){0,4}",
    ) {
        let image = Image(tempfile::tempdir().unwrap());
        image.put("disk", "sda").put("parts", &parts);
        image.put("sda-pt.sf", SFDISK).put("sda-pt.parted", &parted);
        for (name, content) in files {
            image.put(&name, &content);
        }
        if let Ok(directory) = image.open() {
            for partition in directory.partitions {
                let _ = stream::open(partition.pieces, partition.compression);
            }
        }
    }
}
