//! Disks that are saved: real tables, filesystems and boot code, in a Clonezilla directory.

use crate::task::{
    ChunkSource, DiskSource,
    tests::rig::{MIB, TestImage, TestSource, ordinary_tree, signed, tool},
};
use metalcast_formats::clonezilla::{Contents, Directory, SavedDisk};
use metalcast_shared::{
    boot::ReportConfig,
    disk::DiskSelector,
    fix_up::Adaptation,
    hash::Hash,
    manifest::SignedManifest,
    to_agent::{DeployDisk, FixUp, Overwrite},
    whole_disk::SideFile,
};
use metalcast_sys::{
    block::{BlockDevice, OpenMode, Partition, partition_path},
    loopdev::LoopDevice,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

pub(super) const SWAP_UUID: &str = "4d657461-6c63-4173-8000-00000000aa02";
pub(super) const EXTENDED_CODE: [u8; 446] = [0x5a; 446];

/// A saved disk.
pub(super) struct Saved {
    pub(super) disk: SavedDisk,
    pub(super) disk_bytes: u64,
    /// The disk that was saved.
    pub(super) file: PathBuf,
    pub(super) images: BTreeMap<u16, Arc<TestImage>>,
    pub(super) signed: SignedManifest,
    pub(super) key: Vec<u8>,
    pub(super) mbr: Vec<u8>,
    pub(super) gap: Vec<u8>,
    pub(super) swap: u16,
    pub(super) ntfs: u16,
    pub(super) esp: Option<u16>,
    /// Frames that were sent.
    pub(super) sent: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

/// The partitions of a disk: number, first MiB, MiB, and how they are filled.
pub(super) type Parts<'p> = &'p [(u16, u64, u64, Filled<'p>)];

#[derive(Clone, Copy)]
pub(super) enum Filled<'p> {
    Root,
    Data,
    Fat,
    Ntfs,
    Random,
    Swap,
    Extended,
    /// A filesystem by partclone's name, and what makes it.
    Made(&'p str, &'p dyn Fn(&Path)),
}

impl Filled<'_> {
    fn filesystem(&self) -> &str {
        match self {
            Self::Made(filesystem, _) => filesystem,
            Self::Root | Self::Data => "ext4",
            Self::Fat => "vfat",
            Self::Ntfs => "ntfs",
            Self::Random => "dd",
            Self::Swap | Self::Extended => "",
        }
    }

    fn make(self, node: &Path) {
        match self {
            Self::Root => {
                let dir = tempfile::tempdir().unwrap();
                ordinary_tree(dir.path());
                fs::create_dir_all(dir.path().join("sbin")).unwrap();
                fs::write(dir.path().join("sbin/init"), "").unwrap();
                tool(
                    Command::new("mke2fs")
                        .args(["-q", "-F", "-t", "ext4", "-d"])
                        .arg(dir.path())
                        .arg(node),
                );
            }
            Self::Data => {
                drop(tool(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(node)));
            }
            Self::Fat => drop(tool(Command::new("mkfs.vfat").arg(node))),
            Self::Ntfs => drop(tool(Command::new("mkfs.ntfs").args(["-q", "-f", "-F"]).arg(node))),
            Self::Random => {
                let mut bytes = vec![0; MIB as usize];
                blake3::Hasher::new().finalize_xof().fill(&mut bytes);
                File::options().write(true).open(node).unwrap().write_all_at(&bytes, 0).unwrap();
            }
            Self::Swap => drop(tool(
                Command::new("mkswap").args(["-q", "-U", SWAP_UUID, "-L", "theirs"]).arg(node),
            )),
            Self::Made(_, make) => make(node),
            Self::Extended => {}
        }
    }
}

impl Saved {
    /// BIOS boot partition, ESP, root, swap, Windows.
    pub(super) fn gpt() -> Self {
        let table = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
             start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649,name=\"BIOS, boot\"\n\
             start=4096,size=69632,type=U\n\
             start=73728,size=98304,type=L,attrs=\"GUID:60\",uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\n\
             start=172032,size=16384,type=S\nstart=188416,size=16351,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n";
        let parts = [
            (1, 1, 1, Filled::Random),
            (2, 2, 34, Filled::Fat),
            (3, 36, 48, Filled::Root),
            (4, 84, 8, Filled::Swap),
            (5, 92, 0, Filled::Ntfs),
        ];
        // The last one ends at the last sector that a GPT leaves.
        Self::make(100 * MIB, table, &parts)
    }

    /// A bootable root, and Windows, swap and data in logical partitions.
    pub(super) fn mbr() -> Self {
        let table = "label: dos\nlabel-id: 0x1234abcd\n\
             start=2048,size=98304,type=83,bootable\nstart=100352,size=71680,type=f\n\
             start=102400,size=16384,type=7\nstart=120832,size=16384,type=82\nstart=139264,size=32768,type=83\n";
        let parts = [
            (1, 1, 48, Filled::Root),
            (2, 49, 35, Filled::Extended),
            (5, 50, 8, Filled::Ntfs),
            (6, 59, 8, Filled::Swap),
            (7, 68, 16, Filled::Data),
        ];
        Self::make(84 * MIB, table, &parts)
    }

    /// Nothing that could be adapted.
    pub(super) fn windows() -> Self {
        let table = "label: dos\nlabel-id: 0x77\nstart=2048,size=16384,type=7,bootable\nstart=18432,size=8192,type=82\n";
        let parts = [(1, 1, 8, Filled::Ntfs), (2, 9, 4, Filled::Swap)];
        Self::make(16 * MIB, table, &parts)
    }

    /// NTFS, and FAT behind it.
    pub(super) fn fat() -> Self {
        let table = "label: dos\nlabel-id: 0x78\nstart=2048,size=16384,type=7\nstart=18432,size=32768,type=c\n";
        let parts = [(1, 1, 8, Filled::Ntfs), (2, 9, 16, Filled::Fat)];
        Self::make(26 * MIB, table, &parts)
    }

    pub(super) fn make(disk_bytes: u64, table: &str, parts: Parts<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("source");
        File::create(&file).unwrap().set_len(disk_bytes).unwrap();
        let device = LoopDevice::attach(&file, Default::default()).unwrap();
        let mut sfdisk = Command::new("sfdisk");
        let mut sfdisk = sfdisk
            .args(["-q", "--no-reread"])
            .arg(device.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        sfdisk.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let is_gpt = table.starts_with("label: gpt");
        let block = BlockDevice::open(device.path(), OpenMode::Read).unwrap();
        let kernel = |(number, start, mib, filled): &(u16, u64, u64, Filled<'_>)| Partition {
            number: u32::from(*number),
            start_bytes: start * MIB,
            length_bytes: match (filled, mib) {
                (Filled::Extended, _) => 1024,
                (_, 0) => disk_bytes - start * MIB - 33 * 512,
                (_, mib) => mib * MIB,
            },
        };
        block.set_partitions(&parts.iter().map(kernel).collect::<Vec<_>>()).unwrap();
        let image = dir.path().join("image");
        fs::create_dir(&image).unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(image.join(name), bytes).unwrap();
        let whole = File::options().read(true).write(true).open(device.path()).unwrap();
        let read = |bytes: usize, at: u64| {
            let mut buffer = vec![0; bytes];
            whole.read_exact_at(&mut buffer, at).unwrap();
            buffer
        };
        // What a boot loader would put there.
        whole.write_all_at(&[0xfa; 440], 0).unwrap();
        if !is_gpt {
            whole.write_all_at(&[0xc0; 1500], 512).unwrap();
        }
        let (mut images, mut swap) = (BTreeMap::new(), 0);
        for (number, start, _, filled) in parts {
            let node = partition_path(device.path(), u32::from(*number));
            if matches!(filled, Filled::Extended) {
                whole.write_all_at(&EXTENDED_CODE, start * MIB).unwrap();
                whole.sync_all().unwrap();
                write(&format!("sda{number}-ebr"), &read(512, start * MIB));
                continue;
            }
            block.wait_for_partition(u32::from(*number), Duration::from_secs(5)).unwrap();
            filled.make(&node);
            if matches!(filled, Filled::Swap) {
                swap = *number;
                let ids = format!("UUID=\"{SWAP_UUID}\"\nLABEL=\"theirs\"\n");
                write(&format!("swappt-sda{number}.info"), ids.as_bytes());
                continue;
            }
            let filesystem = filled.filesystem();
            let name = format!("sda{number}.{filesystem}-ptcl-img.uncomp");
            let saved = match filesystem {
                "dd" => TestImage::raw(&node),
                _ => TestImage::save(&node, filesystem, String::new()),
            };
            write(&name, &saved.saved);
            images.insert(*number, Arc::new(saved));
        }
        whole.sync_all().unwrap();
        write("disk", b"sda\n");
        let names: Vec<String> = images.keys().map(|number| format!("sda{number}")).collect();
        write("parts", format!("{}\n", names.join(" ")).as_bytes());
        write("sda-pt.sf", tool(Command::new("sfdisk").arg("-d").arg(device.path())).as_bytes());
        let parted = ["-s", device.path().to_str().unwrap(), "unit", "s", "print"];
        write("sda-pt.parted", tool(Command::new("parted").args(parted)).as_bytes());
        let (mbr, gap) = (read(512, 0), read((MIB - 512) as usize, 512));
        write("sda-mbr", &mbr);
        if !is_gpt {
            write("sda-hidden-data-after-mbr", &gap);
        }
        drop((whole, block));
        device.close().unwrap();

        let directory = Directory::open(&image).unwrap();
        let mut contents = Contents::new();
        for piece in directory.disk_files().unwrap() {
            contents.insert(piece.name.clone(), fs::read(image.join(&piece.name)).unwrap());
        }
        let mut disk = SavedDisk::of(&directory, &contents).unwrap();
        if let Some((name, room)) = &disk.gap {
            assert_eq!(*room, MIB - 512);
            let end = gap.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let hash = Hash::of(&gap[..end]);
            disk.whole.boot.gap = Some(SideFile { name: name.clone(), bytes: end as u32, hash });
        }
        let named = |(number, image): (&u16, &Arc<TestImage>)| {
            let mut partition = image.partition().clone();
            partition.name = format!("sda{number}");
            partition
        };
        let (_, signed, key) = signed(images.iter().map(named).collect());
        let esp = parts.iter().find(|part| part.3.filesystem() == "vfat").map(|part| part.0);
        let ntfs = parts.iter().find(|part| part.3.filesystem() == "ntfs").map_or(0, |part| part.0);
        let sent = Arc::default();
        Self {
            disk,
            disk_bytes,
            file,
            images,
            signed,
            key,
            mbr,
            gap,
            swap,
            ntfs,
            esp,
            sent,
            _dir: dir,
        }
    }

    /// With leave to write to what is blank only.
    pub(super) fn order(&self, disk: DiskSelector) -> DeployDisk {
        DeployDisk {
            image: "lab/debian@7".parse().unwrap(),
            manifest: self.signed.clone(),
            partitions: self.disk.partitions.clone(),
            disk,
            whole: self.disk.whole.clone(),
            overwrite: Overwrite::BlankOnly,
            own: None,
            grow: None,
            fresh_ids: None,
            fix_up: FixUp {
                hostname: "node1".into(),
                report: Some(ReportConfig {
                    url: "http://10.0.0.1/report".into(),
                    token: "aa".into(),
                }),
                adaptation: Adaptation {
                    kernel_args: match self
                        .images
                        .values()
                        .any(|i| i.partition().filesystem == "ext4")
                    {
                        true => vec!["quiet".parse().unwrap()],
                        false => Vec::new(),
                    },
                    ..Adaptation::default()
                },
            },
        }
    }
}

/// Gives out a saved disk.
pub(super) struct SourceDisk<'s>(pub(super) &'s Saved);

impl DiskSource for SourceDisk<'_> {
    fn partition(&self, name: &str) -> Box<dyn ChunkSource + '_> {
        let number = name.strip_prefix("sda").unwrap().parse().unwrap();
        let mut source = TestSource::new(self.0.images[&number].clone());
        source.sent = self.0.sent.clone();
        Box::new(source)
    }

    fn side_file(&self, file: &SideFile) -> anyhow::Result<Vec<u8>> {
        assert_eq!(file.name, "sda-hidden-data-after-mbr");
        Ok(self.0.gap[..file.bytes as usize].to_vec())
    }
}
