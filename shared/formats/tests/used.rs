//! Maps of used blocks, of filesystems that the real tools made: those of partclone, and enough of the
//! filesystem to be whole when everything else is garbage. Damaged ones neither panic nor run away.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "used/images.rs"]
mod images;
#[path = "../../../tests/fuzz/src/sparse.rs"]
mod sparse;

use images::{Access, Image, sh};
use metalcast_formats::{
    partclone::Reader,
    used::{self, UsedError, UsedMap},
};
use proptest::prelude::*;
use sparse::{SECTOR, Sparse};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

fn map_of(path: &Path) -> UsedMap {
    let mut file = File::open(path).unwrap();
    let bytes = file.seek(SeekFrom::End(0)).unwrap();
    used::read(&mut file, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Used bytes, as ascending ranges that do not touch.
fn ranges(bitmap: &metalcast_formats::partclone::Bitmap, block_bytes: u32) -> Vec<(u64, u64)> {
    let block = u64::from(block_bytes);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in (0..bitmap.blocks()).filter(|number| bitmap.is_used(*number)) {
        match ranges.last_mut() {
            Some((_, end)) if *end == number * block => *end += block,
            _ => ranges.push((number * block, (number + 1) * block)),
        }
    }
    ranges
}

/// What of `a` is not in `b`.
fn without(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(mut start, end) in a {
        // Both are in order.
        let near = b.partition_point(|(_, to)| *to <= start);
        for &(from, to) in b[near..].iter().take_while(|(from, _)| *from < end) {
            if from > start {
                left.push((start, from));
            }
            start = start.max(to);
        }
        if start < end {
            left.push((start, end));
        }
    }
    left
}

/// The map that the real partclone makes of it.
fn partclone_ranges(image: &Image, program: &str) -> Vec<(u64, u64)> {
    sh(image.dir(), &format!("partclone.{program} -c -s image -o theirs -L log > pc.log 2>&1"));
    let reader = Reader::open(File::open(image.dir().join("theirs")).unwrap()).unwrap();
    ranges(reader.bitmap(), reader.header().block_bytes)
}

/// Ours is partclone's and exactly `extra` bytes more.
fn check_map(image: &Image, program: &str, extra: u64) {
    let map = map_of(&image.dir().join("image"));
    assert_eq!(map.unclean, [""; 0], "{program}");
    let (ours, theirs) = (ranges(&map.used, map.block_bytes), partclone_ranges(image, program));
    assert_eq!(without(&theirs, &ours), [], "{program}: partclone has more");
    let more = without(&ours, &theirs);
    let bytes: u64 = more.iter().map(|(start, end)| end - start).sum();
    assert_eq!(bytes, extra, "{program}: we have more: {:?}", &more[..more.len().min(9)]);
}

/// Makes `copy`, of the used blocks among garbage.
fn copy_used(image: &Image) {
    let map = map_of(&image.dir().join("image"));
    let source = File::open(image.dir().join("image")).unwrap();
    let target = File::create(image.dir().join("copy")).unwrap();
    let block = map.block_bytes as usize;
    let mut garbage = vec![0xa5; block];
    for number in 0..map.used.blocks() {
        let at = number * block as u64;
        if map.used.is_used(number) {
            let mut bytes = vec![0; block];
            source.read_exact_at(&mut bytes, at).unwrap();
            target.write_all_at(&bytes, at).unwrap();
        } else {
            garbage[..8].copy_from_slice(&number.to_le_bytes());
            target.write_all_at(&garbage, at).unwrap();
        }
    }
    target.set_len(map.device_bytes.max(target.metadata().unwrap().len())).unwrap();
}

/// The used blocks among garbage are a whole filesystem: its own checker says so, and all files are in it.
fn check_whole(image: &Image, checker: &str) {
    copy_used(image);
    sh(image.dir(), &format!("{checker} > check.log 2>&1 || {{ cat check.log; exit 1; }}"));
    let sums = image.sums("image");
    assert!(sums.lines().count() > 20, "{sums}");
    assert_eq!(image.sums("copy"), sums, "{checker}");
}

#[test]
fn ext_of_every_layout() {
    for options in [
        "-t ext2 -b 1024",
        "-t ext3 -b 2048",
        "-t ext4",
        "-t ext4 -b 1024 -O ^flex_bg",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        "-t ext4 -O ^metadata_csum,uninit_bg,^64bit",
        "-t ext4 -b 1024 -O sparse_super2 -g 4096",
        "-t ext2 -b 1024 -O ^sparse_super,^resize_inode -g 2048",
        "-t ext4 -I 512 -E packed_meta_blocks=1",
    ] {
        let image = Image::aged(130, &format!("mke2fs -q -F {options} image"), Access::Kernel);
        println!("{options}");
        check_map(&image, "extfs", 0);
        check_whole(&image, "e2fsck -fn copy");
    }
}

#[test]
fn bigalloc_whose_bits_are_clusters() {
    // Debian's partclone cannot read it; e2fsck and the files can tell.
    for options in ["-C 65536", "-b 1024 -C 16384"] {
        let mkfs = format!("mke2fs -q -F -t ext4 -O bigalloc {options} image");
        let image = Image::aged(200, &mkfs, Access::Kernel);
        check_whole(&image, "e2fsck -fn copy");
        let map = map_of(&image.dir().join("image"));
        assert!(map.used_bytes() < 60 << 20, "{options}: {}", map.used_bytes());
        assert_eq!(map.unclean, [""; 0], "{options}");
    }
}

#[test]
fn xfs_by_its_free_space_trees() {
    for options in ["", "-b size=1024 -d agcount=3", "-s size=4096 -m rmapbt=1", "-m crc=0"] {
        println!("{options}");
        let image = if options == "-m crc=0" {
            // No kernel mounts version 4 any more; mkfs copies files into it.
            let files = "printf '/dev/null\n0 0\nd--755 0 0\n' > proto; i=0
                 while [ $i -lt 30 ]; do echo f$i ---644 0 0 /usr/bin/dpkg; i=$((i + 1)); done >> proto
                 echo '$' >> proto; mkfs.xfs -q -m crc=0 -p proto image";
            Image::make(320, &format!("{{ {files}; }}"), Access::Kernel)
        } else {
            Image::aged(320, &format!("mkfs.xfs -q {options} image"), Access::Kernel)
        };
        check_map(&image, "xfs", 0);
        match options {
            "-m crc=0" => {
                copy_used(&image);
                sh(image.dir(), "xfs_repair -n copy 2> check.log");
            }
            _ => check_whole(&image, "xfs_repair -n copy"),
        }
        // xfs_db counts the free blocks by the other tree, and the list beside it.
        let map = map_of(&image.dir().join("image"));
        let freesp = sh(image.dir(), "xfs_db -r -c 'freesp -s' image");
        let free = freesp.lines().find_map(|line| line.strip_prefix("total free blocks ")).unwrap();
        let free: u64 = free.trim().parse().unwrap();
        assert_eq!(map.used.blocks() - map.used.count_used(), free, "{options}: {freesp}");
    }
}

#[test]
fn btrfs_with_all_its_copies() {
    for options in ["", "-m single", "-d dup -m dup -n 4096", "--mixed -n 4096 -s 4096"] {
        let mkfs = format!("mkfs.btrfs -q {options} image");
        let image = Image::aged(260, &mkfs, Access::Kernel);
        println!("{options}");
        let map = map_of(&image.dir().join("image"));
        assert_eq!(map.unclean, [""; 0]);
        assert!(map.used_bytes() < 60 << 20, "{options}: {}", map.used_bytes());
        // partclone is no judge here: it also marks most of what metadata may grow into, and has only
        // one of two copies.
        let node = u64::from(map.block_bytes);
        let (ours, theirs) = (ranges(&map.used, map.block_bytes), btrfs_inspected(&image, node));
        assert_eq!(
            (without(&theirs, &ours), without(&ours, &theirs)),
            (vec![], vec![]),
            "{options}"
        );
        // A check of both copies of all metadata and of every data block.
        check_whole(&image, "btrfs check --check-data-csum copy");
        let scrub = "mount -o loop copy mnt; btrfs scrub start -B mnt; umount mnt";
        let printed = sh(image.dir(), scrub);
        assert!(printed.contains("no errors found"), "{options}: {printed}");
    }
}

/// Used bytes by what `btrfs inspect-internal` prints of extents and chunks, in whole nodes.
fn btrfs_inspected(image: &Image, node: u64) -> Vec<(u64, u64)> {
    let dump = |tree| sh(image.dir(), &format!("btrfs inspect-internal dump-tree -t {tree} image"));
    // `key (A KIND B)`, `length N`, `stripe N devid 1 offset P`.
    let number = |text: Option<&str>| text?.trim_end_matches(')').parse::<u64>().ok();
    let (mut copies, mut chunk, mut length) = (Vec::new(), 0, 0);
    for line in dump("chunk").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["item", _, "key", _, "CHUNK_ITEM", start, ..] => chunk = number(Some(start)).unwrap(),
            ["length", bytes, ..] => length = bytes.parse().unwrap(),
            ["stripe", _, "devid", "1", "offset", at] => {
                copies.push((chunk, length, at.parse::<u64>().unwrap()));
            }
            _ => (),
        }
    }
    let mut used = vec![(0, 1 << 20), (64 << 20, (64 << 20) + node)];
    for line in dump("extent").lines() {
        let Some((_, key)) = line.split_once("key (") else { continue };
        let mut words = key.split(' ');
        let (Some(start), kind, last) = (number(words.next()), words.next(), words.next()) else {
            continue;
        };
        let bytes = match kind {
            Some("EXTENT_ITEM") => number(last).unwrap(),
            Some("METADATA_ITEM") => node,
            _ => continue,
        };
        let within =
            |(chunk, length, _): &&(u64, u64, u64)| (*chunk..chunk + length).contains(&start);
        for (chunk, _, at) in copies.iter().filter(within) {
            let first = at + start - chunk;
            used.push((first / node * node, (first + bytes).next_multiple_of(node)));
        }
    }
    used.sort_unstable();
    used
}

#[test]
fn ntfs_with_the_backup_of_its_boot_sector() {
    for (options, extra) in [("", 4096), ("-c 512", 512), ("-c 65536", 65536)] {
        let mkfs = format!("mkfs.ntfs -q -F -f {options} image");
        let image = Image::aged(120, &mkfs, Access::Ntfs3g);
        println!("{options}");
        check_map(&image, "ntfs", extra);
        check_whole(&image, "ntfsfix -n copy");
        let (source, copy) = (image.dir().join("image"), image.dir().join("copy"));
        let last = |path: &Path| {
            let mut sector = [0; 512];
            File::open(path).unwrap().read_exact_at(&mut sector, (120 << 20) - 512).unwrap();
            sector
        };
        assert!(last(&source) == last(&copy) && last(&copy).starts_with(b"\xebR\x90NTFS"));
        let info = sh(image.dir(), "ntfsinfo -m -f image");
        let free = info.lines().find_map(|line| line.trim().strip_prefix("Free Clusters:"));
        let free: u64 = free.unwrap().split('(').next().unwrap().trim().parse().unwrap();
        let map = map_of(&image.dir().join("image"));
        assert_eq!(map.used.blocks() - map.used.count_used(), free, "{info}");
    }
}

#[test]
fn ntfs_whose_bitmap_lies_in_pieces() {
    // No tool can be made to write such a one: its run is cut in two, and the second part moved.
    let image = Image::aged(30, "mkfs.ntfs -q -F -f -c 512 image", Access::Ntfs3g);
    let file = File::options().read(true).write(true).open(image.dir().join("image")).unwrap();
    let read = |at: u64, bytes: usize| {
        let mut buffer = vec![0; bytes];
        file.read_exact_at(&mut buffer, at).unwrap();
        buffer
    };
    let table = u64::from_le_bytes(read(0x30, 8).try_into().unwrap());
    let record_at = table * 512 + 6 * 1024;
    let mut record = read(record_at, 1024);
    let mut at = usize::from(record[0x14]);
    while record[at] != 0x80 {
        at += usize::from(record[at + 4]);
    }
    let runs = at + usize::from(record[at + 0x20]);
    let [0x21, clusters, low, high, 0, ..] = record[runs..] else { panic!("more than one run") };
    let start = u64::from(low) | u64::from(high) << 8;
    let mut bitmap = read(start * 512, usize::from(clusters) * 512);
    let (first, second) = (clusters / 2, clusters - clusters / 2);
    let is_free = |bitmap: &[u8], lcn: u64| bitmap[(lcn / 8) as usize] >> (lcn % 8) & 1 == 0;
    let delta = (i64::from(clusters)..120 - i64::from(clusters))
        .chain(-120..-i64::from(clusters))
        .find(|delta| {
            let target = start.checked_add_signed(*delta).unwrap();
            (target..target + u64::from(second)).all(|lcn| is_free(&bitmap, lcn))
        })
        .unwrap();
    let target = start.checked_add_signed(delta).unwrap();
    let mut put = |lcn: u64, used: bool| {
        let byte = &mut bitmap[(lcn / 8) as usize];
        *byte = *byte & !(1 << (lcn % 8)) | u8::from(used) << (lcn % 8);
    };
    (start + u64::from(first)..start + u64::from(clusters)).for_each(|lcn| put(lcn, false));
    (target..target + u64::from(second)).for_each(|lcn| put(lcn, true));
    let (head, tail) = bitmap.split_at(usize::from(first) * 512);
    file.write_all_at(head, start * 512).unwrap();
    file.write_all_at(tail, target * 512).unwrap();
    let packed = [0x21, first, low, high, 0x11, second, delta as u8, 0];
    record[runs..runs + 8].copy_from_slice(&packed);
    file.write_all_at(&record, record_at).unwrap();
    drop(file);
    let info = sh(image.dir(), "ntfsinfo -i 6 -v -f image");
    assert!(info.contains("Total runs: 2 (fragments: 2)"), "{info}");
    check_map(&image, "ntfs", 512);
    check_whole(&image, "ntfsfix -n copy");
}

#[test]
fn a_page_file_whose_record_is_far_behind() {
    // Small files first, so that the master file table lies in pieces.
    let image = Image::make(30, "mkfs.ntfs -q -F -f -c 512 image", Access::Ntfs3g);
    image.inside(
        "i=0; while [ $i -lt 6000 ]; do head -c 800 /dev/urandom > s$i; i=$((i + 1)); done
         head -c 40000000 /dev/urandom > big 2> /dev/null || true
         i=0; while [ $i -lt 6000 ]; do rm s$i; i=$((i + 3)); done; rm big
         i=0; while [ $i -lt 4000 ]; do echo > t$i; i=$((i + 1)); done
         head -c 2000000 /dev/urandom > pagefile.sys",
    );
    let info = sh(image.dir(), "ntfsinfo -i 0 -v -f image");
    assert!(!info.contains("Total runs: 1 "), "{info}");
    let map = map_of(&image.dir().join("image"));
    assert_eq!(map.left_out.len(), 1, "{:?}", map.unclean);
    assert!((1_900_000..1_940_000).contains(&map.left_out_bytes()), "{:?}", map.left_out);
    check_whole(&image, "ntfsfix -n copy");
}

#[test]
fn fat_of_every_width() {
    for (options, mib, program) in [
        ("-F 32", 80, "vfat"),
        ("-F 32 -s 8", 300, "vfat"),
        ("-F 16", 60, "vfat"),
        ("-F 16 -s 64 -S 512 -R 7", 200, "vfat"),
    ] {
        let image = Image::aged(mib, &format!("mkfs.fat {options} image"), Access::Mtools);
        println!("{options}");
        check_map(&image, program, 0);
        check_whole(&image, "fsck.fat -n copy");
        let map = map_of(&image.dir().join("image"));
        let fine = map.clone().in_blocks_of(512).unwrap();
        assert_eq!(ranges(&fine.used, 512), ranges(&map.used, map.block_bytes));
        assert_eq!(map.in_blocks_of(96 << 10), None);
    }
    // Debian's partclone misreads 12 bits; the checker and the files can tell.
    let image = Image::make(16, "mkfs.fat -F 12 -s 16 image", Access::Mtools);
    image.inside(
        "cp -r /usr/share/perl5/Debconf tree; head -c 99999 /dev/urandom > f9; touch f21 one",
    );
    check_whole(&image, "fsck.fat -n copy");
    let map = map_of(&image.dir().join("image"));
    assert_eq!((map.filesystem, map.program), ("FAT12", "fat12"));
    assert!(map.used_bytes() < 8 << 20, "{}", map.used_bytes());
}

#[test]
fn exfat_by_its_bitmap() {
    for options in ["", "-c 4K", "-c 128K -b 1M"] {
        let image = Image::aged(200, &format!("mkfs.exfat {options} image"), Access::ExfatFuse);
        println!("{options}");
        check_map(&image, "exfat", 0);
        check_whole(&image, "fsck.exfat -n copy");
    }
}

#[test]
fn what_is_not_known_is_kept_whole() {
    let image = Image::make(
        20,
        "cryptsetup -q luksFormat --pbkdf-force-iterations 4 --pbkdf argon2id \
         --pbkdf-memory 64 --pbkdf-parallel 1 image --key-file /etc/hostname",
        Access::Kernel,
    );
    let map = map_of(&image.dir().join("image"));
    assert_eq!((map.program, map.used_bytes(), map.device_bytes), ("dd", 20 << 20, 20 << 20));
    let swap = Image::make(20, "mkswap image", Access::Kernel);
    let map = map_of(&swap.dir().join("image"));
    assert_eq!((map.program, map.used_bytes(), map.device_bytes), ("swap", 64 << 10, 20 << 20));
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_called_so() {
    let frozen = "head -c 100000 /dev/urandom > new; sync -f .
                  cp --sparse=always ../image ../live";
    for (mkfs, mib, access) in [
        ("mke2fs -q -F -t ext4 image", 40, Access::Kernel),
        ("mke2fs -q -F -t ext2 image", 40, Access::Kernel),
        ("mkfs.xfs -q image", 320, Access::Kernel),
    ] {
        let image = Image::make(mib, mkfs, access);
        image.inside(frozen);
        let mut live = map_of(&image.dir().join("live"));
        assert!(live.unclean[0].contains("mounted"), "{mkfs}: {:?}", live.unclean);
        assert_eq!(map_of(&image.dir().join("image")).unclean, [""; 0], "{mkfs}");
        live.take_every_block();
        assert_eq!(live.used_bytes(), live.device_bytes);
    }
    // fsync leaves a log tree behind until the next commit.
    let image = Image::make(260, "mkfs.btrfs -q image", Access::Kernel);
    image.inside(
        "head -c 9999 /dev/urandom > old; sync
         dd if=/dev/urandom of=new bs=4k count=2 conv=fsync 2> /dev/null
         cp --sparse=always ../image ../live",
    );
    let live = map_of(&image.dir().join("live"));
    assert!(live.unclean[0].contains("fsynced"), "{:?}", live.unclean);
}

#[test]
fn page_files_are_left_out_but_for_their_beginning() {
    let image = Image::aged(120, "mkfs.ntfs -q -F -f image", Access::Ntfs3g);
    image.inside(
        "head -c 20000000 /dev/urandom > pagefile.sys; head -c 9000000 /dev/zero > hiberfil.sys
         mkdir other; head -c 5000000 /dev/urandom > other/pagefile.sys",
    );
    let map = map_of(&image.dir().join("image"));
    let names: Vec<_> = map.left_out.iter().map(|file| file.path).collect();
    assert_eq!(names, ["pagefile.sys", "hiberfil.sys"]);
    assert!((28_500_000..29_000_000).contains(&map.left_out_bytes()), "{:?}", map.left_out);
    check_whole(&image, "ntfsfix -n copy");
    // A system that wakes up from it needs all of it, and may not be saved at all.
    image.inside("printf hibr | dd of=hiberfil.sys conv=notrunc 2> /dev/null");
    let map = map_of(&image.dir().join("image"));
    assert!(map.unclean[0].contains("hibernated"), "{:?}", map.unclean);
    assert_eq!(map.left_out.len(), 1);

    let image = Image::aged(120, "mke2fs -q -F -t ext4 image", Access::Kernel);
    let before = map_of(&image.dir().join("image"));
    image.inside("head -c 16M /dev/urandom > swapfile; chmod 600 swapfile; mkswap -q swapfile");
    let map = map_of(&image.dir().join("image"));
    assert_eq!(map.left_out[0].path, "swapfile");
    assert_eq!(map.left_out_bytes(), (16 << 20) - (64 << 10));
    assert!(map.used_bytes() - before.used_bytes() < 1 << 20);
    check_whole(&image, "e2fsck -fn copy");
}

/// Notes which sectors are read.
struct Noted<'n> {
    file: &'n File,
    at: u64,
    read: BTreeSet<u32>,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.at)?;
        let end = (self.at + bytes as u64).div_ceil(SECTOR as u64);
        self.read.extend((self.at / SECTOR as u64) as u32..end as u32);
        self.at += bytes as u64;
        Ok(bytes)
    }
}

impl Seek for Noted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = at;
        Ok(at)
    }
}

/// What a reader looks at of a filesystem.
fn looked_at(path: &Path) -> Sparse {
    let file = File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    let mut noted = Noted { file: &file, at: 0, read: BTreeSet::new() };
    used::read(&mut noted, bytes).unwrap();
    let mut sparse = Sparse::default();
    sparse.sectors = (bytes / SECTOR as u64) as u32;
    for number in noted.read {
        let mut sector = [0; SECTOR];
        file.read_exact_at(&mut sector, u64::from(number) * SECTOR as u64).unwrap();
        if sector.iter().any(|byte| *byte != 0) {
            sparse.content.insert(number, sector);
        }
    }
    sparse
}

/// Small filesystems of every kind, as their readers see them.
fn small_ones() -> Vec<(&'static str, Sparse)> {
    let small_xfs = "TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 mkfs.xfs -q image";
    let kinds = [
        ("ext4", 8, "mke2fs -q -F -t ext4 -b 1024 image", Access::Kernel),
        (
            "ext2-meta-bg",
            8,
            "mke2fs -q -F -t ext2 -b 1024 -O meta_bg,^resize_inode image",
            Access::Kernel,
        ),
        ("ntfs", 8, "mkfs.ntfs -q -F -f image", Access::Ntfs3g),
        ("fat12", 2, "mkfs.fat -F 12 image", Access::Mtools),
        ("fat32", 34, "mkfs.fat -F 32 image", Access::Mtools),
        ("exfat", 8, "mkfs.exfat image", Access::ExfatFuse),
        ("xfs", 32, small_xfs, Access::Kernel),
        ("btrfs", 120, "mkfs.btrfs -q -n 4096 image", Access::Kernel),
        ("swap", 1, "mkswap image", Access::Kernel),
    ];
    kinds
        .map(|(name, mib, mkfs, access)| {
            let image = Image::make(mib, mkfs, access);
            let script = match name {
                "ntfs" => "head -c 200000 /dev/zero > pagefile.sys",
                "ext4" => "head -c 200000 /dev/zero > swapfile; mkswap -q swapfile",
                _ => "head -c 20000 /dev/urandom > f9; touch f21 one",
            };
            if name != "swap" {
                image.inside(script);
            }
            (name, looked_at(&image.dir().join("image")))
        })
        .into()
}

#[test]
fn damaged_filesystems_end_with_an_error_or_a_map() {
    let all = small_ones();
    for (name, sparse) in &all {
        let map = used::read(&mut sparse.clone(), sparse.len()).unwrap();
        assert!(map.used.count_used() > 0, "{name}: what was looked at is enough");
    }
    let strategy = (
        0..all.len(),
        prop::collection::vec(
            (any::<prop::sample::Index>(), 0..SECTOR, any::<u32>(), 1..=4usize),
            1..6,
        ),
        prop::option::of(1..200u32),
    );
    let config = ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let done = runner.run(&strategy, |(kind, changes, cut)| {
        let (_, original) = &all[kind];
        let mut damaged = original.clone();
        let numbers: Vec<u32> = damaged.content.keys().copied().collect();
        for (which, at, value, bytes) in changes {
            let sector = damaged.content.get_mut(which.get(&numbers)).unwrap();
            let end = (at + bytes).min(SECTOR);
            sector[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        if let Some(cut) = cut {
            damaged.sectors = (u64::from(damaged.sectors) * u64::from(cut) / 200) as u32;
        }
        let bytes = damaged.len();
        match used::read(&mut damaged, bytes) {
            Ok(map) => {
                let blocks = map.used.blocks();
                prop_assert!(blocks * u64::from(map.block_bytes) <= bytes);
                prop_assert!(map.used.count_used() <= blocks);
            }
            Err(error) => prop_assert!(!matches!(error, UsedError::Read { .. }), "{error:?}"),
        }
        Ok(())
    });
    done.unwrap_or_else(|error| panic!("{error}"));
}

/// Makes the files in `tests/fuzz/corpus/used`.
#[test]
#[ignore = "writes into the source tree; to be run by hand after a change of what readers look at"]
fn corpus_of_the_fuzz_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/used");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, sparse) in small_ones() {
        std::fs::write(dir.join(name), sparse.encode()).unwrap();
    }
}
