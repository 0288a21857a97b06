//! Disks that no Clonezilla has saved: raw files, block devices, images of virtual machines, streams.

use crate::{Store, name, ocs::LoopDisk, source::sh, with_causes};
use metalcast_controller::images::{DiskOptions, ImportError};
use metalcast_shared::{id::Revision, manifest::Manifest};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A disk with an ext4, a FAT, an NTFS, swap and random bytes in an MBR table, in the file `disk`; what is
/// in its partitions is in files of their own.
pub struct Disk(TempDir);

/// First sector and length in MiB of each partition of [`Disk`] that has data.
const PARTITIONS: [(&str, u64, u64); 4] =
    [("sda1", 2048, 20), ("sda2", 43008, 40), ("sda3", 124_928, 8), ("sda5", 145_408, 64)];

impl Disk {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sh(
            dir.path(),
            "truncate -s 160M disk; printf 'label: dos\\nlabel-id: 0x1234abcd
             1: start=2048, size=20M, type=b\\n2: start=43008, size=40M, type=7
             3: start=124928, size=8M, type=83\\n4: start=143360, type=5
             5: start=145408, size=64M, type=83\\n6: start=278528, size=16M, type=82\\n' | sfdisk -q disk
             head -c 100000 /dev/urandom | dd of=disk bs=512 seek=1 conv=notrunc status=none
             mkdir content; head -c 20M /dev/urandom > content/random; seq 1 90000 > content/text
             truncate -s 20M sda1; mkfs.vfat -F 16 sda1 > log; mcopy -i sda1 content/text ::
             truncate -s 40M sda2; mkfs.ntfs -q -F -f sda2 2> log; ntfscp -q sda2 content/text text
             head -c 8M /dev/urandom > sda3
             truncate -s 64M sda5; mke2fs -q -t ext4 -d content sda5
             truncate -s 16M sda6; mkswap -q -L exchange sda6
             for part in 1:2048 2:43008 3:124928 5:145408 6:278528; do
                 dd if=sda${part%:*} of=disk seek=${part#*:} conv=notrunc,sparse status=none
             done",
        );
        Self(dir)
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
}

impl Store {
    pub fn import_disk(&self, path: &Path, options: &DiskOptions) -> Result<Revision, ImportError> {
        self.images.import_file(path, options, &name(), &|_| {})
    }

    /// An import that must work, of a disk with the usual options.
    fn imported(&self, path: &Path) -> Manifest {
        let revision = self.import_disk(path, &DiskOptions::default());
        let revision = revision.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        self.images.manifest(&revision).unwrap().0
    }

    /// Why an import does not work, which must leave nothing.
    fn refused(&self, path: &Path, options: &DiskOptions) -> String {
        let before = self.entries();
        let error = self.import_disk(path, options).expect_err(&path.display().to_string());
        assert_eq!(self.entries(), before, "{error}");
        with_causes(&error)
    }
}

#[test]
fn a_raw_disk_becomes_an_image_of_what_is_used_on_it() {
    let (store, disk) = (Store::new(), Disk::new());
    let manifest = store.imported(&disk.file("disk"));
    let kinds: Vec<_> = manifest.partitions.iter().map(|one| one.filesystem.as_str()).collect();
    assert_eq!(kinds, ["vfat", "ntfs", "dd", "ext4"]);
    assert_eq!(
        manifest.provenance,
        format!(
            "raw file {} (sda, 167772160 bytes); left out: sda4 (extended), sda6 (swap)",
            disk.file("disk").display()
        )
    );
    let revision = &manifest.revision;
    for (name, _, mib) in PARTITIONS {
        let partition = manifest.partition(name).unwrap();
        let (ours, theirs) =
            (store.reassembled(revision, name), fs::read(disk.file(name)).unwrap());
        assert!(partition.used_bytes() <= mib << 20, "{name}");
        match partition.filesystem.as_str() {
            // Unused blocks may hold what mkfs left there.
            "ext4" => assert!(partition.used_bytes() < 30 << 20),
            _ => assert!(ours == theirs[..ours.len()], "{name}"),
        }
    }
    // The tools take what is stored, and find the files.
    let stored = store.path(revision);
    sh(&stored, "b2sum --quiet -c B2SUMS; zstd -q -t *.zst");
    assert_eq!(sh(&stored, "cat parts disk"), "sda1 sda2 sda3 sda5\nsda\n");
    let script = "truncate -s 64M ORIGINAL/back
        zstd -qdc sda5.ext4-ptcl-img.zst | partclone.restore -L ORIGINAL/log -C -s - -O ORIGINAL/back
        cd ORIGINAL; e2fsck -fn back > log; debugfs -R 'dump random random' back 2> log
        cmp random content/random; sfdisk -d disk | sed 's|disk\\([0-9]\\)|/dev/sda\\1|; s|: disk|: /dev/sda|' |
            cmp - STORED/sda-pt.sf";
    let script = script.replace("ORIGINAL", &disk.dir().display().to_string());
    sh(&stored, &script.replace("STORED", &stored.display().to_string()));

    // It can be checked and exported like any other, and the export is a source again.
    let report = store.images.check(revision, &|_| {}).unwrap();
    assert_eq!(report.damage, [""; 0]);
    let out = disk.file("out");
    store.images.export(revision, &out, Default::default(), &|_| {}).unwrap();
    let again = store.import(&out).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    let (again, _) = store.images.manifest(&again).unwrap();
    for name in ["sda1", "sda2", "sda5"] {
        assert_eq!(again.partition(name).unwrap().pages, manifest.partition(name).unwrap().pages);
    }
}

#[test]
fn partitions_are_called_as_is_wanted_and_saved_whole_if_that_is_wanted() {
    let (store, disk) = (Store::new(), Disk::new());
    let options =
        DiskOptions { device: Some("nvme0n1p7".to_owned()), exact: true, ..DiskOptions::default() };
    let revision = store.import_disk(&disk.file("sda5"), &options).unwrap();
    let (manifest, _) = store.images.manifest(&revision).unwrap();
    let partition = &manifest.partitions[0];
    assert_eq!((&partition.name[..], &partition.filesystem[..]), ("nvme0n1p7", "dd"));
    assert!(store.reassembled(&revision, "nvme0n1p7") == fs::read(disk.file("sda5")).unwrap());
    assert!(partition.file_bytes < 30 << 20, "zeros are not kept");
    assert!(!store.path(&revision).join("disk").exists(), "a partition is no disk");

    // What is encrypted or belongs to a volume group is kept byte by byte.
    sh(
        disk.dir(),
        "truncate -s 20M luks; printf secret | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 \
             --pbkdf-force-iterations 1000 luks -; head -c 2M /dev/urandom >> luks",
    );
    let manifest = store.imported(&disk.file("luks"));
    assert_eq!(manifest.partitions[0].filesystem, "dd");
    assert!(store.reassembled(&manifest.revision, "sda") == fs::read(disk.file("luks")).unwrap());
}

/// Options of qemu-img for each format that is taken.
const FORMATS: [(&str, &str); 10] = [
    ("qcow2", "-O qcow2"),
    ("qcow2", "-c -O qcow2 -o compression_type=zstd"),
    ("qcow2", "-c -O qcow2 -o compat=0.10,cluster_size=4k"),
    ("qcow2", "-O qcow2 -o extended_l2=on,cluster_size=128k"),
    ("VMDK", "-O vmdk"),
    ("VMDK", "-O vmdk -o subformat=streamOptimized"),
    ("VHD", "-O vpc -o force_size=on"),
    ("VHD", "-O vpc -o subformat=fixed,force_size=on"),
    ("VHDX", "-O vhdx"),
    ("VDI", "-O vdi"),
];

#[test]
fn images_of_virtual_machines_give_the_same_image_as_the_raw_disk() {
    let (store, disk) = (Store::new(), Disk::new());
    let raw = store.imported(&disk.file("disk")).partitions;
    for (format, options) in FORMATS {
        // The name says nothing.
        sh(
            disk.dir(),
            &format!("rm -f image.raw; qemu-img convert -f raw {options} disk image.raw"),
        );
        let manifest = store.imported(&disk.file("image.raw"));
        assert_eq!(manifest.partitions, raw, "{options}");
        let begins =
            format!("{format} image {} (sda, virtual size ", disk.file("image.raw").display());
        assert!(manifest.provenance.starts_with(&begins), "{}", manifest.provenance);
        let left = store.entries().into_iter().filter(|entry| entry.contains(".import"));
        assert_eq!(left.count(), 0, "{options}: a temporary file is left");
    }
}

#[test]
fn a_table_with_large_sectors_is_found() {
    let (store, dir) = (Store::new(), tempfile::tempdir().unwrap());
    sh(
        dir.path(),
        "truncate -s 64M disk; device=$(losetup -b 4096 -f --show disk)
         printf 'label: gpt\\nstart=256,size=8192,type=L\\n' | sfdisk -q $device; losetup -d $device
         truncate -s 32M part; mke2fs -q -t ext4 part; dd if=part of=disk bs=1M seek=1 conv=notrunc status=none",
    );
    let manifest = store.imported(&dir.path().join("disk"));
    assert_eq!(manifest.partitions[0].filesystem, "ext4");
    let table = fs::read_to_string(store.path(&manifest.revision).join("sda-pt.sf")).unwrap();
    assert!(table.contains("sector-size: 4096"), "{table}");
}

#[test]
fn what_is_no_disk_or_would_read_other_files_is_refused_by_name() {
    let (store, disk) = (Store::new(), Disk::new());
    let dir = disk.dir();
    sh(
        dir,
        "qemu-img convert -f raw -O qcow2 disk whole; touch empty; mkfifo pipe; xz -0k sda1
         qemu-img create -q -f qcow2 -b sda1 -F raw backed
         qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on outside 1M
         qemu-img create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s \
             secret 1M
         qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 1M
         qemu-img create -q -f vmdk -o backing_file=base.vmdk,backing_fmt=vmdk child.vmdk 1M 2> log || {
             qemu-img create -q -f vmdk base.vmdk 1M
             qemu-img create -q -f vmdk -b base.vmdk -F vmdk child.vmdk; }
         head -c 100M disk > short; head -c 1000 sda3 > odd; head -c 30M sda5 > half
         head -c 70000 whole > torn; cp whole huge; truncate -s -100000 whole
         for format in vmdk vpc vdi vhdx; do
             qemu-img convert -f raw -O $format disk torn.$format; truncate -s -9M torn.$format
         done
         qemu-img convert -f raw -O qcow2 disk newer; printf '\\377' | dd of=huge bs=1 seek=24 conv=notrunc status=none
         printf '\\200' | dd of=newer bs=1 seek=72 conv=notrunc status=none",
    );
    for (file, expected) in [
        ("nothing", &["nothing cannot be read", "No such file"][..]),
        ("empty", &["it is empty"]),
        ("pipe", &["is no directory, file or block device", "as `-`"]),
        ("sda1.xz", &["compressed with xz; unpack it"]),
        ("backed", &["qcow2 image with the backing file \"sda1\"", "qemu-img convert"]),
        ("outside", &["qcow2 image with an external data file"]),
        ("secret", &["encrypted qcow2"]),
        ("flat.vmdk", &["the list of a VMDK's files"]),
        ("child.vmdk", &["VMDK image with a parent"]),
        ("short", &["may have been cut off", "partition 4 ends at sector"]),
        ("odd", &["looking at sda", "are not whole sectors"]),
        ("half", &["--exact", "it has ", "check and repair it first"]),
        ("torn", &["torn is a qcow2 image that is damaged or was cut off", "qemu-img check"]),
        ("whole", &["whole is a qcow2 image that is damaged or was cut off", "end of the file"]),
        ("torn.vmdk", &["torn.vmdk is a VMDK image that cannot be unpacked", "after EOF"]),
        ("torn.vpc", &["VHD image that was cut off"]),
        ("torn.vdi", &["VDI image that was cut off"]),
        ("torn.vhdx", &["VHDX image that cannot be unpacked"]),
        ("huge", &["huge is a qcow2 image that cannot be unpacked", "Image is too big"]),
        ("newer", &["cannot be unpacked", "feature"]),
    ] {
        let error = store.refused(&disk.file(file), &DiskOptions::default());
        for part in expected {
            assert!(error.contains(part), "{file}: {part:?} is not in {error}");
        }
    }
    let options = DiskOptions { device: Some("../sda".to_owned()), ..DiskOptions::default() };
    let error = store.refused(&disk.file("disk"), &options);
    assert!(error.contains("\"../sda\" cannot be the name of a disk"), "{error}");
}

#[test]
fn what_was_not_unmounted_or_is_in_use_is_refused_unless_forced() {
    let (store, disk) = (Store::new(), Disk::new());
    let forced = DiskOptions { force: true, ..DiskOptions::default() };
    // As it is while it is mounted.
    let live = "unshare --mount --propagation slave sh -ec 'mkdir mnt; mount -o loop sda5 mnt
         echo new > mnt/new; sync -f mnt; cp --sparse=always sda5 live; umount mnt'";
    sh(disk.dir(), live);
    let error = store.refused(&disk.file("live"), &DiskOptions::default());
    assert!(error.contains("sda: its journal was not replayed"), "{error}");
    assert!(error.contains("--force takes every block"), "{error}");
    let revision = store.import_disk(&disk.file("live"), &forced).unwrap();
    assert!(store.reassembled(&revision, "sda") == fs::read(disk.file("live")).unwrap());
    let (manifest, _) = store.images.manifest(&revision).unwrap();
    let note = "; not unmounted properly, with every block: sda";
    assert!(manifest.provenance.ends_with(note), "{}", manifest.provenance);

    let held = LoopDisk::attach(&disk.file("sda5"));
    let device = Path::new(&held.0);
    let error = store.refused(&disk.file("sda5"), &DiskOptions::default());
    assert!(error.contains("sda5 is in use by loop"), "{error}");
    store.import_disk(&disk.file("sda5"), &forced).unwrap();
    // The device itself is nobody's, until it is mounted.
    let manifest = store.imported(device);
    assert_eq!(manifest.partitions[0].filesystem, "ext4");
    sh(disk.dir(), &format!("mount {} mnt", held.0));
    let mounted = store.import_disk(device, &DiskOptions::default());
    sh(disk.dir(), "umount mnt");
    let error = with_causes(&mounted.unwrap_err());
    assert!(error.contains("is in use (mounted"), "{error}");
}

/// A stream that breaks.
struct Broken<R>(R);

impl<R: Read> Read for Broken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line is dead")),
            bytes => Ok(bytes),
        }
    }
}

#[test]
fn a_stream_gives_the_same_image_as_the_file_or_nothing() {
    let (store, disk) = (Store::new(), Disk::new());
    let raw = store.imported(&disk.file("disk"));
    sh(disk.dir(), "qemu-img convert -f raw -O qcow2 disk image");
    let options = DiskOptions::default();
    for file in ["disk", "image"] {
        let mut file = File::open(disk.file(file)).unwrap();
        let revision = store.images.import_stream(&mut file, &options, &name(), &|_| {});
        let revision = revision.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        let (manifest, _) = store.images.manifest(&revision).unwrap();
        assert_eq!(manifest.partitions, raw.partitions);
        assert!(manifest.provenance.contains(" standard input (sda, "), "{}", manifest.provenance);
    }
    let before = store.entries();
    let mut broken = Broken(File::open(disk.file("disk")).unwrap().take(70_000_001));
    let error = store.images.import_stream(&mut broken, &options, &name(), &|_| {}).unwrap_err();
    let error = with_causes(&error);
    assert!(error.contains("broke off after 70000001 bytes"), "{error}");
    assert!(error.contains("the line is dead"), "{error}");
    let nothing = store.images.import_stream(&mut io::empty(), &options, &name(), &|_| {});
    assert!(with_causes(&nothing.unwrap_err()).contains("it is empty"));
    assert_eq!(store.entries(), before);
}
