//! Clonezilla directories and the streams in them: what is complete is understood, everything else
//! is refused with the name of the file.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::{
    clonezilla::{Directory, DirectoryError, Form, TableKind},
    partclone::{ReadError, Reader},
    stream::{Compression, StreamError},
};
use proptest::prelude::*;
use std::{
    error::Error,
    fs,
    io::Read,
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
    let opened = partition.open()?;
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
    let directory = Image::complete().put("sda-mbr", &"x".repeat(512)).open().unwrap();
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
        "gunzip *.gz; bzip2 sda1.ext4-ptcl-img",
        "gunzip *.gz; pbzip2 -b1 -1 sda1.ext4-ptcl-img",
        "gunzip *.gz; lbzip2 -1 sda1.ext4-ptcl-img",
        "gunzip *.gz; lzop -U sda1.ext4-ptcl-img",
        "gunzip *.gz; lzop -U -9 --crc32 sda1.ext4-ptcl-img",
        "gunzip *.gz; lzop -U -F sda1.ext4-ptcl-img",
        "gunzip *.gz; lzip -c sda1.ext4-ptcl-img > sda1.ext4-ptcl-img.lzip; rm *-img",
        "gunzip *.gz; plzip -9 -c -B 8KiB sda1.ext4-ptcl-img > sda1.ext4-ptcl-img.lzip; rm *-img",
        // Members of each, cut within them.
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do bzip2 -c $f; done > whole; split -b 777 whole sda1.ext4-ptcl-img.bz2.; rm x* whole",
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do lzop -c $f; done > whole; split -b 777 whole sda1.ext4-ptcl-img.lzo.; rm x* whole",
        "gunzip *.gz; split -b 10000 sda1.ext4-ptcl-img x; rm sda1*; \
         for f in x*; do lzip -c $f; done > whole; split -b 777 whole sda1.ext4-ptcl-img.lzip.; rm x* whole",
        // Names of old, compression unknown.
        "mv sda1.ext4-ptcl-img.gz sda1.ext4-img.aa",
        "gunzip *.gz; lzop -U sda1.ext4-ptcl-img; mv sda1.ext4-ptcl-img.lzo sda1.ext4-img.aa",
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
        ("sed -i s/sda1/sda2/ *.sf", "sda1 in sda-pt.sf (its place on sda)"),
        ("rm *.parted", "sda-pt.parted (size and partition table of sda)"),
        ("split -b 100 *.gz sda1.ext4-ptcl-img.gz.; rm *.gz *.ac", "sda1.ext4-ptcl-img.gz.ac"),
        ("split -b 100 *.gz sda1.ext4-ptcl-img.gz.; rm *.gz *.aa", "sda1.ext4-ptcl-img.gz.aa"),
        (
            "head -c 512 /dev/zero > sda-mbr; md5sum * > MD5SUMS; rm sda-mbr",
            "sda-mbr (listed in MD5SUMS)",
        ),
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
fn partitions_without_data_are_left_out_and_named() {
    let image = Image::complete();
    let table = "/dev/sda2 : start=     4096, size=    90000, Id= 5\n\
        /dev/sda3 : start=0, size=0, Id= 0\n\
        /dev/sda5 : start= 8192, size= 128, type=82\n/dev/sda6 : start= 9000, size=128, type=83\n";
    image.put("sda-pt.sf", &format!("{SFDISK}{table}")).put("parts", "/dev/sda1 sda6\n");
    image.put("sda6.dd-img.aa", "").put("sda6.dd-img.info", "").put("swappt-sda5.info", "");
    let directory = image.open().unwrap();
    assert_eq!(directory.left_out(), "sda2 (extended), sda5 (swap)");
    let side: Vec<_> = directory.side_files.iter().map(|file| file.name.as_str()).collect();
    assert!(side.contains(&"swappt-sda5.info") && !side.iter().any(|name| name.contains("img.aa")));
    assert_eq!(Image::complete().open().unwrap().left_out(), "");
}

#[test]
fn boot_code_and_names_of_swap_that_are_not_there_are_told() {
    let image = Image::complete();
    let table = "/dev/sda2 : start= 4096, size= 90000, type=5\n/dev/sda5 : start= 8192, size= 128, type=82\n";
    image.put("sda-pt.sf", &format!("{SFDISK}{table}"));
    let lacking = image.open().unwrap().lacking;
    let expected = [
        "sda-mbr (boot code)",
        "sda2-ebr (boot code)",
        "swappt-sda5.info (UUID and label of swap)",
    ];
    assert_eq!(lacking, expected);
    image.sh("head -c 512 /dev/zero | tee sda-mbr > sda2-ebr; echo > swappt-sda5.info");
    assert_eq!(image.open().unwrap().lacking, [""; 0]);
    let error = image.sh("truncate -s 100 sda2-ebr").refusal();
    assert_eq!(error, "sda2-ebr: has 100 bytes instead of the 446 of boot code");
}

#[test]
fn what_the_files_of_a_partition_are_follows_from_their_name() {
    for (name, form, filesystem) in [
        ("sda1.ext4-ptcl-img.gz", Form::Partclone, "ext4"),
        ("sda1.ext3-img.aa", Form::Partclone, "ext3"),
        ("sda1.dd-ptcl-img.zst.aa", Form::Raw, "dd"),
        ("sda1.dd-img", Form::Raw, "dd"),
        ("sda1.ntfs-img.aa", Form::NtfsClone, "ntfs"),
        ("sda1.ntfs-ptcl-img.lz4", Form::Partclone, "ntfs"),
    ] {
        let image = Image::complete();
        image.sh("rm *.gz").put(name, "");
        let partition = image.open().unwrap().partitions.remove(0);
        assert_eq!((partition.form, partition.filesystem.as_str()), (form, filesystem), "{name}");
    }
}

#[test]
fn a_raw_image_begins_as_it_likes_and_may_be_compressed() {
    for (script, bytes) in [
        ("head -c 4096 /dev/zero > sda1.dd-ptcl-img.uncomp", 4096),
        ("head -c 4096 /dev/zero | lzop -c > sda1.dd-ptcl-img.lzo", 4096),
        // Compressed twice, and named once.
        ("head -c 4096 /dev/zero | gzip | tee x > sda1.dd-ptcl-img.uncomp; rm x", 38),
        ("head -c 4096 /dev/zero | split -b 1000 - sda1.dd-img.", 4096),
        ("head -c 4096 /dev/zero | gzip -c > sda1.dd-img.aa", 4096),
    ] {
        let image = Image::complete();
        image.sh(&format!("rm *.gz; {script}"));
        let mut content = Vec::new();
        let opened = image.open().unwrap().partitions.remove(0).open().unwrap();
        opened.stream.take(1 << 20).read_to_end(&mut content).unwrap();
        assert!((content.len() as i64 - bytes).abs() < 20, "{script}: {}", content.len());
    }
    let image = Image::complete();
    image.sh("gzip -d *.gz; mv *-ptcl-img sda1.dd-ptcl-img.zst");
    let error = image.open().unwrap().partitions.remove(0).open().err().unwrap().to_string();
    assert!(error.contains("is named as zstd but begins as an uncompressed image"), "{error}");
}

/// Tables of all ages, the GPT ones by the real sgdisk.
#[test]
fn the_partition_table_is_read_whatever_wrote_it() {
    const OLD_GPT: &str = "# partition table of /dev/sda\nunit: sectors\n\n\
        /dev/sda1 : start=        1, size=4294967295, Id=ee\n\
        /dev/sda2 : start=        0, size=        0, Id= 0\n";
    const OLD_MBR: &str = "# partition table of /dev/sda\nunit: sectors\n\n\
        /dev/sda1 : start=     2048, size=      128, Id=83, bootable\n\
        /dev/sda2 : start=     4096, size=      128, Id=82\n\
        /dev/sda3 : start=        0, size=        0, Id= 0\n";
    let gpt = PARTED.replace("msdos", "gpt");
    let sgdisk = "truncate -s 200M d; sgdisk -n 1:2048:+64K -t 1:8300 -n 2:0:+1M -t 2:8200 \
        -b sda-gpt.gdisk d > /dev/null; rm d";

    let image = Image::complete();
    image.put("sda-pt.sf", OLD_MBR);
    let directory = image.open().unwrap();
    assert_eq!(directory.tables[0].kind, TableKind::Mbr);
    assert_eq!(directory.left_out(), "sda2 (swap)");

    let image = Image::complete();
    image.put("sda-pt.sf", OLD_GPT).put("sda-pt.parted", &gpt);
    assert!(image.refusal().ends_with("missing: sda-gpt.gdisk (the partition table of sda)"));
    let directory = image.sh(sgdisk).open().unwrap();
    assert_eq!(directory.tables[0].kind, TableKind::Gpt);
    assert_eq!(directory.left_out(), "sda2 (swap)");
    image.sh("rm sda-pt.sf").open().unwrap();
    let error = image.sh("mv *.gz sda3.ext4-ptcl-img.gz; echo sda3 > parts").refusal();
    assert!(error.ends_with("missing: sda3 in sda-gpt.gdisk (its place on sda)"), "{error}");

    // Any byte of what says where the partitions are.
    let image = Image::complete();
    image.put("sda-pt.parted", &gpt).sh("rm sda-pt.sf").sh(sgdisk);
    let good = fs::read(image.path("sda-gpt.gdisk")).unwrap();
    for at in (512..604).chain(1536..1800) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(image.path("sda-gpt.gdisk"), bad).unwrap();
        let error = image.refusal();
        assert!(error.contains("sda-gpt.gdisk: is not a whole backup of a GPT"), "{at}: {error}");
    }
}

#[test]
fn what_cannot_be_restored_is_refused_by_name() {
    for (script, reason) in [
        ("mv *.gz sda1.ext4-ptcl-img.rar", "sda1.ext4-ptcl-img.rar: the compression .rar is not"),
        ("mv *.gz sda1.000", "sda1.000: an image made by partimage is not supported yet"),
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
        ("truncate -s 5M parts", "parts: 5242880 bytes are too long for this file"),
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
        ("gunzip -c *.gz > x; mv x *.gz", "named as gzip but begins as an uncompressed image"),
        ("echo hello | tee *.gz", "is named as gzip but begins as nothing known"),
        ("gunzip *.gz; lrzip -qD sda1.ext4-ptcl-img", "lrzip compresses an image as a whole"),
        (
            "gunzip *.gz; bzip2 sda1.ext4-ptcl-img; printf more | tee -a *.bz2",
            "the image cannot be read on at byte 24702 (the end)",
        ),
        (
            "gunzip *.gz; lzop -U sda1.ext4-ptcl-img; printf more-than-a-magic | tee -a *.lzo",
            "what follows a file is not another",
        ),
        (
            "gunzip *.gz; lzip -c sda1.ext4-ptcl-img > x; printf morethan >> x; rm *-img; \
             mv x sda1.ext4-ptcl-img.lzip",
            "what follows a member is not another",
        ),
        (
            "gunzip *.gz; lzip -s 512MiB -c sda1.ext4-ptcl-img > sda1.ext4-ptcl-img.lzip; rm *-img; \
             printf '\\035' | dd of=sda1.ext4-ptcl-img.lzip bs=1 seek=5 conv=notrunc",
            "a dictionary of 536870912 bytes is needed, and 67108864 is the limit",
        ),
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

/// In these some bytes may be others and mean the same content, but none may be missing.
#[test]
fn bzip2_lzop_and_lzip_notice_every_cut() {
    for compress in [
        "bzip2 sda1.ext4-ptcl-img",
        "lzop -U -9 sda1.ext4-ptcl-img",
        "plzip -B 8KiB -c sda1.ext4-ptcl-img > sda1.ext4-ptcl-img.lzip; rm *-img",
    ] {
        let image = Image::complete();
        image.sh(&format!("gunzip *.gz; {compress}"));
        let piece = image.open().unwrap().partitions.remove(0).pieces.remove(0);
        let good = fs::read(&piece.path).unwrap();
        for at in (0..64).chain(good.len() - 64..good.len()).chain((64..good.len()).step_by(41)) {
            fs::write(&piece.path, &good[..at]).unwrap();
            let error = read(&image).expect_err(&format!("{compress}: cut at {at}"));
            assert!(error.is::<ReadError>() || error.is::<StreamError>(), "{error}");
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
static COMPRESSED: LazyLock<[(&str, Vec<u8>); 6]> = LazyLock::new(|| {
    [
        ("xz", "xz -c"),
        ("lzma", "xz --format=lzma -c"),
        ("lz4", "lz4 -qc -BD"),
        ("bz2", "bzip2 -c"),
        ("lzo", "lzop -c"),
        ("lzip", "lzip -c"),
    ]
    .map(|(suffix, tool)| {
        let output = Command::new("sh")
            .args(["-c", &format!("{tool} {}", fixture().display())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{tool}");
        (suffix, output.stdout)
    })
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is damaged in a compressed stream, an answer comes.
    #[test]
    fn any_damage_to_a_compressed_stream_is_answered(
        which in 0usize..6,
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
                let _ = partition.open();
            }
        }
    }
}
