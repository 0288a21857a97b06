//! A disk, an image and a controller's part played by threads.

use crate::{
    disk::Operation,
    task::{
        self, Cancel, ChunkSource, Context, Delivery, Loss, Machine, Report, Request, Sink,
        Stopped, Uploader,
    },
};
use metalcast_formats::{
    chunk::{Chunks, PlainChunk, RAW_BLOCK_BYTES, RawChunks, Sealed, Sealer, archive_sealer},
    grub::recipe,
    layout::{self, DiskPlan, SECTOR_BYTES},
    partclone::Reader,
    tar::Packer,
};
use metalcast_shared::{
    as_left::Comparison,
    boot::ReportConfig,
    disk::{Disk, DiskSelector},
    event::{Step, TaskEvent},
    fix_up::Adaptation,
    hash::Hash,
    id::Revision,
    layout::Layout,
    manifest::{
        ARCHIVE, CHUNKS_PER_PAGE, Chunk, Manifest, Page, PageRef, Partition, SignedManifest,
    },
    to_agent::{Capture, Deploy, FixUp, Overwrite, SelectSlot},
};
use metalcast_sys::{
    block::partition_path,
    loopdev::{LoopDevice, Options},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    ops::Deref,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) const MIB: u64 = 1 << 20;
/// What a disk has beside its slots: boot partition, swap, reserve, and a MiB in front of each.
const OTHERS_MIB: u32 = 128;
const SLOTS: u16 = 3;
/// Slots larger than the images by at least this much.
const SPARE_MIB: u32 = 16;
pub(crate) const SERIAL: &str = "MC-TEST";

/// Runs a tool and gives what it printed.
pub(crate) fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{error}");
    text
}

/// The manifest of `lab/debian@7`, its signed form and the key.
pub(crate) fn signed(partitions: Vec<Partition>) -> (Manifest, SignedManifest, Vec<u8>) {
    let manifest = Manifest {
        version: 1,
        revision: "lab/debian@7".parse().unwrap(),
        created_unix: 0,
        provenance: "test".into(),
        partitions,
    };
    let random = ring::rand::SystemRandom::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let root = manifest.encode();
    let signature = pair.sign(&root).as_ref().to_vec();
    let key = pair.public_key().as_ref().to_vec();
    (manifest, SignedManifest { root, signature }, key)
}

/// What a saved partition is.
struct Facts {
    filesystem: String,
    block_bytes: u32,
    total_blocks: u64,
    used_blocks: u64,
    device_bytes: u64,
}

/// An imported image with one partition, `sda1`.
pub(crate) struct TestImage {
    pub(crate) manifest: Manifest,
    pub(crate) signed: SignedManifest,
    pub(crate) key: Vec<u8>,
    pub(crate) pages: Vec<Vec<u8>>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) frames: HashMap<u32, Vec<u8>>,
    /// What partclone saved.
    pub(crate) saved: Vec<u8>,
    /// UUID of its filesystem.
    pub(crate) uuid: String,
}

impl TestImage {
    /// The one that most tests use.
    pub(crate) fn ordinary() -> Arc<Self> {
        static IMAGE: OnceLock<Arc<TestImage>> = OnceLock::new();
        IMAGE.get_or_init(|| Arc::new(Self::make(ordinary_tree))).clone()
    }

    /// One with whatever files.
    pub(crate) fn make(tree: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        tree(&root);
        let raw = dir.path().join("raw");
        File::create(&raw).unwrap().set_len(48 * MIB).unwrap();
        tool(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&raw));
        let uuid = tool(Command::new("blkid").args(["-p", "-o", "value", "-s", "UUID"]).arg(&raw));
        Self::save(&raw, "ext4", uuid.trim().to_owned())
    }

    /// What partclone saves of a device.
    pub(crate) fn save(raw: &Path, filesystem: &str, uuid: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("saved");
        let mut partclone = Command::new(format!("partclone.{filesystem}"));
        partclone.args(["-c", "-F", "-L"]).arg(dir.path().join("log"));
        tool(partclone.arg("-s").arg(raw).arg("-o").arg(&saved));
        Self::seal(&saved, filesystem, uuid)
    }

    pub(crate) fn seal(saved: &Path, filesystem: &str, uuid: String) -> Self {
        let mut chunks = Chunks::new(Reader::open(File::open(saved).unwrap()).unwrap()).unwrap();
        let header = chunks.reader().header().clone();
        let facts = Facts {
            filesystem: filesystem.into(),
            block_bytes: header.block_bytes,
            total_blocks: header.total_blocks,
            used_blocks: chunks.reader().used_blocks(),
            device_bytes: header.device_bytes,
        };
        let saved = std::fs::read(saved).unwrap();
        Self::of_chunks(|| chunks.next_chunk().unwrap(), facts, saved, uuid)
    }

    /// All bytes of a device, as `dd` saves them.
    pub(crate) fn raw(device: &Path) -> Self {
        let saved = std::fs::read(device).unwrap();
        let blocks = saved.len() as u64 / u64::from(RAW_BLOCK_BYTES);
        let facts = Facts {
            filesystem: "dd".into(),
            block_bytes: RAW_BLOCK_BYTES,
            total_blocks: blocks,
            used_blocks: blocks,
            device_bytes: saved.len() as u64,
        };
        let mut chunks = RawChunks::new(File::open(device).unwrap());
        Self::of_chunks(|| chunks.next_chunk().unwrap(), facts, saved, String::new())
    }

    fn of_chunks(
        mut next: impl FnMut() -> Option<PlainChunk>,
        facts: Facts,
        saved: Vec<u8>,
        uuid: String,
    ) -> Self {
        let mut sealer = Sealer::new(3).unwrap();
        Self::of_sealed(|| next().map(|plain| sealer.seal(plain).unwrap()), facts, saved, uuid)
    }

    /// A tar archive.
    pub(crate) fn archive(saved: &[u8], needed_mib: u64) -> Self {
        let (mut packer, mut seal) = (Packer::new(saved), archive_sealer());
        let mut all = Vec::new();
        while let Some(packed) = packer.next_chunk().unwrap() {
            all.push(seal(packed).unwrap());
        }
        let used_blocks = all.iter().map(|sealed| u64::from(sealed.chunk.blocks())).sum();
        let facts = Facts {
            filesystem: ARCHIVE.into(),
            block_bytes: 512,
            total_blocks: all.len() as u64 * 2048,
            used_blocks,
            device_bytes: needed_mib * MIB,
        };
        let mut all = all.into_iter();
        Self::of_sealed(|| all.next(), facts, saved.to_vec(), String::new())
    }

    fn of_sealed(
        mut next: impl FnMut() -> Option<Sealed>,
        facts: Facts,
        saved: Vec<u8>,
        uuid: String,
    ) -> Self {
        let (mut entries, mut frames, mut offset) = (Vec::new(), HashMap::new(), 100u64);
        while let Some(mut sealed) = next() {
            sealed.chunk.offset = offset;
            offset += u64::from(sealed.chunk.frame_bytes);
            frames.insert(sealed.chunk.index, sealed.frame);
            entries.push(sealed.chunk);
        }
        let mut pages = Vec::new();
        let mut references = Vec::new();
        for part in entries.chunks(CHUNKS_PER_PAGE) {
            let bytes = Page { chunks: part.to_vec() }.encode();
            let length = bytes.len() as u32;
            references.push(PageRef { hash: Hash::of(&bytes), offset: 0, bytes: length });
            pages.push(bytes);
        }
        let partition = Partition {
            name: "sda1".into(),
            file: format!("sda1.{}-ptcl-img.zst", facts.filesystem),
            filesystem: facts.filesystem,
            block_bytes: facts.block_bytes,
            total_blocks: facts.total_blocks,
            used_blocks: facts.used_blocks,
            device_bytes: facts.device_bytes,
            chunk_blocks: Partition::chunk_blocks_for(facts.block_bytes),
            chunks: entries.len() as u32,
            head_bytes: 100,
            file_bytes: offset,
            pages: references,
        };
        let (manifest, signed, key) = signed(vec![partition]);
        Self { manifest, signed, key, pages, chunks: entries, frames, saved, uuid }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.manifest.revision.clone()
    }

    pub(crate) fn partition(&self) -> &Partition {
        &self.manifest.partitions[0]
    }
}

pub(crate) fn ordinary_tree(root: &Path) {
    let file = |name: &str, content: &[u8]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    file("etc/fstab", b"UUID=0000-0000 / ext4 errors=remount-ro 0 1\n/dev/sda2 none swap sw 0 0\n");
    file("etc/hostname", b"golden\n");
    file("etc/hosts", b"127.0.0.1\tlocalhost\n127.0.1.1\tgolden\n");
    file("etc/ssh/ssh_host_rsa_key", b"the image's\n");
    file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    file("usr/lib/systemd/systemd", b"");
    file(
        "boot/grub/grub.cfg",
        b"menuentry x {\n\tlinux /boot/vmlinuz root=/dev/sda1 ro resume=/dev/sda2\n}\n",
    );
    // Some that compresses, some that does not, and zeros that are really there.
    let noise: Vec<u8> = (0..9u64)
        .flat_map(|n| {
            let mut bytes = vec![0; MIB as usize];
            blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        })
        .collect();
    file("boot/vmlinuz", &noise);
    file("usr/share/text", "all work and no play\n".repeat(100_000).as_bytes());
    file("var/zeros", &vec![0; 4 * MIB as usize]);
    symlink("/etc/machine-id", root.join("etc/other-id")).unwrap();
}

/// Gives out an image from threads; can be told to misbehave.
pub(crate) struct TestSource {
    pub(crate) image: Arc<TestImage>,
    /// Frames that were sent well.
    pub(crate) sent: Arc<AtomicUsize>,
    /// How often each of these chunks is spoiled before it comes right.
    pub(crate) spoil: Arc<Mutex<HashMap<u32, usize>>>,
    /// How many requests break off in the middle.
    pub(crate) breaks: Arc<AtomicUsize>,
}

impl TestSource {
    pub(crate) fn new(image: Arc<TestImage>) -> Self {
        let (sent, spoil, breaks) = Default::default();
        Self { image, sent, spoil, breaks }
    }
}

impl ChunkSource for TestSource {
    fn page(&self, number: u32) -> anyhow::Result<Vec<u8>> {
        Ok(self.image.pages[number as usize].clone())
    }

    fn request(&self, request: Request, sink: Sink) {
        let (image, sent) = (self.image.clone(), self.sent.clone());
        let (spoil, breaks) = (self.spoil.clone(), self.breaks.clone());
        std::thread::spawn(move || {
            let less = |left: usize| left.checked_sub(1);
            let broken = breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
            let good = if broken { request.chunks.len() / 2 } else { request.chunks.len() };
            for (number, wanted) in request.chunks.iter().enumerate() {
                let mut frame = image.frames[&wanted.index].clone();
                assert_eq!(frame.len(), wanted.frame_bytes as usize);
                if let Some(left) = spoil.lock().unwrap().get_mut(&wanted.index)
                    && *left > 0
                {
                    *left -= 1;
                    *frame.last_mut().unwrap() ^= 1;
                }
                let what = if number < good { Ok(frame) } else { Err(Loss::Connection) };
                sent.fetch_add(usize::from(what.is_ok()), Ordering::SeqCst);
                if sink.blocking_send(Delivery { position: wanted.position, what }).is_err() {
                    break;
                }
            }
        });
    }
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Event(TaskEvent),
    Disk(Operation),
}

type Refuse = dyn Fn(usize, Operation) -> bool + Send + Sync;

/// A loop disk on a machine, with an image for its slots.
pub(crate) struct Rig {
    bench: Bench,
    pub(crate) image: Arc<TestImage>,
    pub(crate) layout: Layout,
    pub(crate) plan: DiskPlan,
}

impl Deref for Rig {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

/// A loop disk on a machine.
pub(crate) struct Bench {
    pub(crate) machine: Arc<Machine>,
    pub(crate) disk: PathBuf,
    pub(crate) bytes: u64,
    /// What a look at the disks finds.
    pub(crate) found: Arc<Mutex<Disk>>,
    /// What the latest deploy left.
    pub(crate) left: Mutex<Option<Vec<u8>>>,
    log: Arc<Mutex<Vec<Entry>>>,
    refuse: Arc<Mutex<Box<Refuse>>>,
    // Detached before its file goes.
    _loop: LoopDevice,
    _dir: tempfile::TempDir,
}

/// How a task ended, with all that happened.
pub(crate) struct Outcome {
    pub(crate) log: Vec<Entry>,
    pub(crate) result: Result<(), Stopped>,
}

impl Outcome {
    /// The cause of the failure, behind the name of the step.
    pub(crate) fn cause(&self) -> String {
        match self.log.iter().rev().find(|entry| matches!(entry, Entry::Event(_))) {
            Some(Entry::Event(TaskEvent::Failed { step: Some(step), cause })) => {
                format!("{step}: {cause}")
            }
            Some(Entry::Event(TaskEvent::Failed { step: None, cause })) => cause.clone(),
            other => panic!("no failure but {other:?}"),
        }
    }

    pub(crate) fn has_said(&self, event: &TaskEvent) -> bool {
        self.log.iter().any(|entry| matches!(entry, Entry::Event(said) if said == event))
    }

    /// What a comparison found.
    pub(crate) fn compared(&self) -> Comparison {
        let found = self.log.iter().find_map(|entry| match entry {
            Entry::Event(TaskEvent::Compared { comparison }) => Some((**comparison).clone()),
            _ => None,
        });
        found.unwrap()
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        let note = |entry: &Entry| match entry {
            Entry::Event(TaskEvent::StepNote { step, text }) => Some(format!("{step}: {text}")),
            _ => None,
        };
        self.log.iter().filter_map(note).collect()
    }

    /// The step in which each operation of the disk was.
    pub(crate) fn operations(&self) -> Vec<(Step, Operation)> {
        let mut now = Step::CheckDisk;
        let mut operations = Vec::new();
        for entry in &self.log {
            match entry {
                Entry::Event(TaskEvent::StepStarted { step }) => now = *step,
                Entry::Event(_) => {}
                Entry::Disk(operation) => operations.push((now, *operation)),
            }
        }
        operations
    }

    pub(crate) fn expect(self) -> Self {
        assert!(self.result.is_ok(), "{}", self.cause());
        self
    }
}

/// With slots for this image.
fn layout_for(image: &TestImage) -> Layout {
    let image_mib = u32::try_from(image.partition().device_bytes / MIB).unwrap();
    Layout {
        name: "small".into(),
        boot_mib: 24,
        swap_mib: 8,
        reserve_mib: 4,
        slots: SLOTS,
        slot_mib: image_mib + SPARE_MIB,
    }
}

impl Rig {
    pub(crate) fn new(image: Arc<TestImage>) -> Self {
        let layout = layout_for(&image);
        let mib = OTHERS_MIB + u32::from(SLOTS) * layout.slot_mib;
        let bench = Bench::new(u64::from(mib) * MIB, Options::default());
        let plan = layout::compute(&layout, bench.bytes, 512).unwrap();
        Self { bench, image, layout, plan }
    }

    pub(crate) fn order(&self, slot: u16, overwrite: Overwrite) -> Deploy {
        Deploy {
            image: self.image.revision(),
            manifest: self.image.signed.clone(),
            partition: "sda1".into(),
            disk: self.selector(),
            layout: self.layout.clone(),
            slot,
            overwrite,
            grow: false,
            fix_up: FixUp {
                hostname: format!("node{slot}"),
                report: Some(ReportConfig {
                    url: "http://10.0.0.1/report".into(),
                    token: "aa".into(),
                }),
                adaptation: Adaptation::default(),
            },
            fresh: None,
        }
    }

    pub(crate) fn deploy(&self, slot: u16, overwrite: Overwrite) -> Outcome {
        self.run(&self.order(slot, overwrite), &TestSource::new(self.image.clone()), |_| {})
    }

    /// Carries out an order; `seen` gets each event and may stop the task.
    pub(crate) fn run(
        &self,
        order: &Deploy,
        source: &TestSource,
        seen: impl Fn((&TaskEvent, &Cancel)) + Sync,
    ) -> Outcome {
        self.watch(seen, |context| task::deploy(order, &self.image.key, source, context))
    }

    pub(crate) fn select(&self, slot: u16) -> Outcome {
        let layout = self.layout.clone();
        let select = SelectSlot { disk: self.selector(), layout, slot };
        self.watch(|_| {}, |context| task::select_slot(&select, context))
    }

    pub(crate) fn capture(&self, order: &Capture, uploader: &dyn Uploader) -> Outcome {
        self.capture_watched(order, uploader, |_| {})
    }

    /// The same; `seen` gets each event and may stop the task.
    pub(crate) fn capture_watched(
        &self,
        order: &Capture,
        uploader: &dyn Uploader,
        seen: impl Fn((&TaskEvent, &Cancel)) + Sync,
    ) -> Outcome {
        self.watch(seen, |context| task::capture(order, uploader, context))
    }

    pub(crate) fn slot_start(&self, slot: u16) -> u64 {
        self.plan.partition(slot).unwrap().start_lba * SECTOR_BYTES
    }

    /// Hash of a slot with the EBR and gap in front of it.
    pub(crate) fn slot_hash(&self, slot: u16) -> Hash {
        let plan = self.plan.partition(slot).unwrap();
        let start = plan.ebr_lba.unwrap() * SECTOR_BYTES;
        Hash::of(&self.read(start, self.slot_start(slot) + plan.sectors * SECTOR_BYTES - start))
    }

    /// First byte of the gap in front of a slot.
    pub(crate) fn gap_start(&self, slot: u16) -> u64 {
        self.plan.partition(slot).unwrap().gap().unwrap().first_lba * SECTOR_BYTES
    }

    /// Whether the menu would find a boot sector in the slot or in front of it.
    pub(crate) fn is_startable(&self, slot: u16) -> bool {
        self.has_boot_sector(self.slot_start(slot)) || self.has_boot_sector(self.gap_start(slot))
    }

    /// How many of the image's chunks the slot does not have.
    pub(crate) fn differing_chunks(&self, slot: u16) -> usize {
        self.bench.differing_chunks(&self.image, self.slot_start(slot))
    }
}

impl Bench {
    /// A blank disk.
    pub(crate) fn new(bytes: u64, options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        File::create(&file).unwrap().set_len(bytes).unwrap();
        let device = LoopDevice::attach(&file, options).unwrap();
        let disk = device.path().to_owned();
        let name = disk.file_name().unwrap().to_str().unwrap().to_owned();
        let log: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let refuse: Arc<Mutex<Box<Refuse>>> = Arc::new(Mutex::new(Box::new(|_, _| false)));
        let tap = {
            let (log, refuse) = (log.clone(), refuse.clone());
            let count = AtomicUsize::new(0);
            move |operation| {
                if refuse.lock().unwrap()(count.fetch_add(1, Ordering::SeqCst), operation) {
                    return Err(std::io::Error::other("power is gone"));
                }
                log.lock().unwrap().push(Entry::Disk(operation));
                Ok(())
            }
        };
        let found = Disk { name, serial: Some(SERIAL.into()), bytes, ..Disk::default() };
        let found = Arc::new(Mutex::new(found));
        let seen = found.clone();
        let machine = Machine {
            disks: Box::new(move || Ok(vec![seen.lock().unwrap().clone()])),
            dev: "/dev".into(),
            grub: loaders().to_owned(),
            run_dir: dir.path().join("run"),
            tap: Some(Box::new(tap)),
        };
        let machine = Arc::new(machine);
        let (_loop, _dir) = (device, dir);
        Self { machine, disk, bytes, found, left: Mutex::default(), log, refuse, _loop, _dir }
    }

    /// From now on the disk refuses operations for which this says so; they are counted from the
    /// first on this disk.
    pub(crate) fn refuse(&self, refuse: impl Fn(usize, Operation) -> bool + Send + Sync + 'static) {
        *self.refuse.lock().unwrap() = Box::new(refuse);
    }

    pub(crate) fn selector(&self) -> DiskSelector {
        DiskSelector { serial: Some(SERIAL.into()), wwn: None, bytes: self.bytes }
    }

    pub(crate) fn watch(
        &self,
        seen: impl Fn((&TaskEvent, &Cancel)) + Sync,
        work: impl FnOnce(&Context<'_>) -> Result<(), Stopped>,
    ) -> Outcome {
        self.log.lock().unwrap().clear();
        let cancel = Cancel::default();
        let report = |report| {
            if let Report::Event(event) = report {
                seen((&event, &cancel));
                self.log.lock().unwrap().push(Entry::Event(event));
            }
        };
        let keep = |encoded: &[u8]| {
            *self.left.lock().unwrap() = Some(encoded.to_vec());
            Ok(())
        };
        let context = Context {
            machine: &self.machine,
            report: &report,
            cancel: &cancel,
            fetch: None,
            keep: Some(&keep),
        };
        let result = work(&context);
        Outcome { log: self.log.lock().unwrap().clone(), result }
    }

    pub(crate) fn node(&self, number: u16) -> PathBuf {
        partition_path(&self.disk, u32::from(number))
    }

    /// The content of a file in a partition's ext4, by debugfs.
    pub(crate) fn cat(&self, number: u16, file: &str) -> String {
        let mut debugfs = Command::new("debugfs");
        tool(debugfs.arg("-R").arg(format!("cat {file}")).arg(self.node(number)))
    }

    /// Bytes of the disk, past every cache.
    pub(crate) fn read(&self, start: u64, bytes: u64) -> Vec<u8> {
        tool(Command::new("blockdev").arg("--flushbufs").arg(&self.disk));
        let mut content = vec![0; bytes as usize];
        File::open(&self.disk).unwrap().read_exact_at(&mut content, start).unwrap();
        content
    }

    pub(crate) fn write(&self, start: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.disk).unwrap();
        file.write_all_at(bytes, start).unwrap();
        file.sync_all().unwrap();
    }

    pub(crate) fn whole_hash(&self) -> Hash {
        Hash::of(&self.read(0, self.bytes))
    }

    /// Whether there is a boot sector.
    pub(crate) fn has_boot_sector(&self, start: u64) -> bool {
        self.read(start + 510, 2) == [0x55, 0xaa]
    }

    /// GRUB's environment on the boot partition, as grub-editenv reads it.
    pub(crate) fn environment(&self) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dump = format!("dump /grub/grubenv {}", file.path().display());
        tool(Command::new("debugfs").arg("-R").arg(dump).arg(self.node(1)));
        tool(Command::new("grub-editenv").arg(file.path()).arg("list"))
    }

    /// How many of the image's chunks a partition that begins here does not have.
    pub(crate) fn differing_chunks(&self, image: &TestImage, start: u64) -> usize {
        let partition = image.partition();
        let content = self.read(start, partition.device_bytes);
        let differs = |chunk: &&Chunk| {
            let mut hasher = blake3::Hasher::new();
            for (offset, length) in chunk.extents(partition) {
                hasher.update(&content[offset as usize..offset as usize + length]);
            }
            Hash(*hasher.finalize().as_bytes()) != chunk.data_hash
        };
        image.chunks.iter().filter(differs).count()
    }
}

/// The blkid value of a filesystem, from the device itself.
pub(crate) fn blkid(node: &Path, tag: &str) -> String {
    let mut blkid = Command::new("blkid");
    let value = tool(blkid.args(["-p", "-o", "value", "-s", tag]).arg(node));
    value.trim().to_owned()
}

/// GRUB's files as the build makes them, by the real grub-mkimage.
fn loaders() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy("/usr/lib/grub/i386-pc/boot.img", dir.path().join("boot.img"))
            .expect("boot.img of the package grub-pc-bin");
        for (name, recipe) in
            [("mbr-core.img", recipe::disk_core()), ("slot-core.img", recipe::slot_core())]
        {
            let config = dir.path().join("config");
            let memdisk = dir.path().join("memdisk");
            std::fs::write(&config, recipe.early_config).unwrap();
            std::fs::write(&memdisk, &recipe.memdisk).unwrap();
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            let output = text(&dir.path().join(name));
            let args = recipe.mkimage_args(&text(&config), &text(&memdisk), &output);
            tool(Command::new("grub-mkimage").args(args));
        }
        dir
    };
    DIR.get_or_init(make).path()
}
