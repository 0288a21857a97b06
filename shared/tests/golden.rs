//! The bytes of every message, kept per protocol version: a change that an older peer would not
//! understand fails here. `METALCAST_BLESS=1` writes the file of a new version.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

use metalcast_shared::{
    as_left::{
        Area, AsLeft, Change, Comparison, LeftBlocks, LeftChunk, LeftPartition, Place, Range,
        Ranges,
    },
    boot::{BootConfig, EnrolmentToken, ReportConfig, ReportToken, SystemReport},
    codec,
    disk::{Content, Disk, DiskSelector},
    event::{Numbered, Progress, Step, TaskEvent},
    fix_up::{Adaptation, FixUpStep},
    fresh::{Fresh, FreshKind},
    fresh_ids::Seed,
    hash::Hash,
    id::{BootId, JobId, Mac, NodeId, TaskId},
    inventory::{Fingerprint, Firmware, Inventory, Nic, Smbios},
    layout::Layout,
    manifest::{Chunk, Manifest, Page, PageRef, Partition, Run, SignedManifest},
    post_install::PostInstall,
    table::{FoundPartition, FoundTable, PartitionKind},
    to_agent::{
        BundleReply, Capture, CaptureSource, ChunkHeader, Compare, CompareSource, Deploy,
        DeployDisk, DeployPartitions, EnrolReply, FixUp, Overwrite, Packed, PageReply, Placed,
        RecordReply, SelectSlot, Standing, Task, ToAgent, Work,
    },
    to_controller::{Enrol, Hello, LogLevel, Open, Phase, ToController},
    upload::{Survey, SurveyPartition, UploadPart, UploadPosition, UploadReply},
    whole_disk::{
        BootCode, DiskTable, GptPartition, MbrPartition, SideFile, Swap, TableId, WholeDisk,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, fmt::Write, path::Path};
use uuid::Uuid;

fn node() -> NodeId {
    NodeId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001))
}

fn boot() -> BootId {
    BootId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002))
}

fn task() -> TaskId {
    TaskId { job: JobId(3), node: node(), generation: 2 }
}

fn mac() -> Mac {
    Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])
}

fn disk() -> Disk {
    Disk {
        name: "vda".into(),
        serial: Some("MC1".into()),
        wwn: None,
        model: Some("QEMU".into()),
        bytes: 4 << 30,
        logical_sector: 512,
        physical_sector: 4096,
        rotational: true,
        transport: Some("virtio".into()),
        contents: vec![Content { partition: Some(5), what: "ext4".into(), bytes: 1 << 30 }],
        table: Some(table()),
    }
}

fn table() -> FoundTable {
    let part = |number, kind, in_use| FoundPartition {
        number,
        start_bytes: 1 << 20,
        bytes: 1 << 30,
        kind,
        in_use,
    };
    let partitions = vec![
        part(1, PartitionKind::Mbr(7), None),
        part(5, PartitionKind::Gpt(Uuid::from_u128(3)), Some("mounted".into())),
    ];
    FoundTable { id: TableId::Mbr(0x1234_5678), partitions }
}

fn selector() -> DiskSelector {
    DiskSelector { serial: Some("MC1".into()), wwn: None, bytes: 4 << 30 }
}

fn layout() -> Layout {
    Layout {
        name: "lab".into(),
        boot_mib: 64,
        swap_mib: 128,
        reserve_mib: 16,
        slots: 3,
        slot_mib: 1024,
    }
}

fn inventory() -> Inventory {
    Inventory {
        cpu_model: "cpu".into(),
        cpu_cores: 1,
        cpu_threads: 2,
        memory_bytes: 512 << 20,
        disks: vec![disk()],
        nics: vec![Nic {
            name: "eth0".into(),
            mac: mac(),
            driver: Some("virtio_net".into()),
            link: true,
            speed_mbit: None,
            pci_id: Some("1af4:1000".into()),
            boot: true,
        }],
        smbios: Smbios { uuid: Some("u".into()), ..Smbios::default() },
        firmware: Firmware::Uefi,
        kernel: "6.1.0".into(),
    }
}

fn deploy() -> Deploy {
    Deploy {
        image: "lab/debian@7".parse().unwrap(),
        manifest: SignedManifest { root: vec![1, 2], signature: vec![3; 4] },
        partition: "sda1".into(),
        disk: selector(),
        layout: layout(),
        slot: 5,
        overwrite: Overwrite::OwnSlot,
        grow: true,
        fix_up: FixUp {
            hostname: "node1".into(),
            report: Some(ReportConfig { url: "http://10.0.0.1/report".into(), token: "t".into() }),
            adaptation: Adaptation {
                without: FixUpStep::ALL.into(),
                authorized_keys: vec!["ssh-ed25519 AAAA".parse().unwrap()],
                kernel_args: vec!["quiet".parse().unwrap()],
                post_install: Some(PostInstall {
                    hash: Hash([8; 32]),
                    packed_bytes: 300,
                    entries: 2,
                    has_script: true,
                }),
            },
        },
        fresh: Some(Fresh { kind: FreshKind::Xfs, label: Some("root".parse().unwrap()) }),
    }
}

fn compare() -> Compare {
    let Deploy { image, manifest, partition, disk, layout, slot, .. } = deploy();
    let as_left = Some(Packed { bytes: 300, hash: Hash([8; 32]) });
    Compare {
        image,
        manifest,
        disk,
        source: CompareSource::Slot { layout, slot, partition },
        as_left,
    }
}

fn as_left() -> AsLeft {
    let runs = vec![Run { start: 0, count: 2 }];
    let chunk = LeftChunk { index: 3, runs, hash: Hash([1; 32]), prints: vec![1, 1 << 40] };
    let blocks =
        LeftBlocks { block_bytes: 4096, total_blocks: 2600, is_new: false, chunks: vec![chunk] };
    let partition = |blocks| LeftPartition {
        number: 5,
        partition: "sda1".into(),
        start: 1 << 20,
        bytes: 1 << 30,
        blocks,
    };
    AsLeft {
        areas: vec![Area { start: 0, bytes: 512, hash: Hash([2; 32]) }],
        partitions: vec![partition(Some(blocks)), partition(None)],
    }
}

fn comparison() -> Comparison {
    let range = |change| Range { start: 4096, bytes: 4096, change, place: "journal".into() };
    let first = vec![range(Change::Changed), range(Change::New), range(Change::Freed)];
    Comparison {
        has_as_left: true,
        image_bytes: 1 << 30,
        left: Ranges::default(),
        drift: Ranges { bytes: 12288, count: 3, first },
        places: vec![Place { what: "journal".into(), bytes: 12288 }],
        remarks: vec!["r".into()],
    }
}

fn capture(source: CaptureSource) -> Capture {
    Capture { disk: selector(), source, name: "sda5".into(), force: false, raw: true, tar: false }
}

fn survey() -> Survey {
    Survey {
        agent: "0.1.0".into(),
        partitions: vec![SurveyPartition {
            name: "sda5".into(),
            filesystem: "ext4".into(),
            block_bytes: 4096,
            total_blocks: 1000,
            used_blocks: 600,
            device_bytes: 4_096_000,
        }],
        left_out_bytes: 1 << 20,
        remarks: vec!["r".into()],
    }
}

fn deploy_disk(table: DiskTable) -> DeployDisk {
    let Deploy { image, manifest, disk, fix_up, .. } = deploy();
    let boot = BootCode {
        mbr: vec![1, 2],
        extended: vec![3],
        gap: Some(SideFile { name: "gap".into(), bytes: 300, hash: Hash([7; 32]) }),
    };
    let swaps = vec![Swap { number: 5, uuid: Some(Uuid::from_u128(9)), label: "swap".into() }];
    DeployDisk {
        image,
        manifest,
        partitions: vec![Placed { number: 1, partition: "sda1".into() }],
        disk,
        own: Some(table.id()),
        whole: WholeDisk { sector_bytes: 512, table, swaps, boot },
        overwrite: Overwrite::WholeDisk,
        grow: Some(1),
        fix_up,
        fresh_ids: Some(Seed(Uuid::from_u128(10))),
    }
}

fn deploy_partitions() -> DeployPartitions {
    let DeployDisk { image, manifest, partitions, disk, whole, fix_up, .. } = deploy_disk(mbr());
    DeployPartitions {
        image,
        manifest,
        partitions,
        swaps: whole.swaps,
        disk,
        table: table(),
        overwrite: Overwrite::AnySlot,
        grow: vec![1, 300],
        fix_up,
    }
}

fn mbr() -> DiskTable {
    let partition = MbrPartition {
        number: 5,
        kind: 0x83,
        start_lba: 4096,
        sectors: 2048,
        bootable: true,
        ebr_lba: Some(2048),
    };
    DiskTable::Mbr { signature: 0x1234_5678, partitions: vec![partition] }
}

fn gpt() -> DiskTable {
    let partition = GptPartition {
        number: 1,
        kind: Uuid::from_u128(1),
        guid: Uuid::from_u128(2),
        start_lba: 2048,
        sectors: 4096,
        attributes: 1 << 60,
        name: "EFI".into(),
    };
    let (guid, first_lba, slots) = (Uuid::from_u128(3), 34, 128);
    DiskTable::Gpt { guid, first_lba, slots, partitions: vec![partition] }
}

fn manifest() -> Manifest {
    Manifest {
        version: 1,
        revision: "lab/debian@7".parse().unwrap(),
        created_unix: 1_700_000_000,
        provenance: "p".into(),
        partitions: vec![Partition {
            name: "sda1".into(),
            filesystem: "ext4".into(),
            file: "sda1.ext4-ptcl-img.zst".into(),
            block_bytes: 4096,
            total_blocks: 1000,
            used_blocks: 600,
            device_bytes: 4_096_000,
            chunk_blocks: 256,
            chunks: 1,
            head_bytes: 100,
            file_bytes: 10_000,
            pages: vec![PageRef { hash: Hash::of(b"page"), offset: 0, bytes: 90 }],
        }],
    }
}

fn page() -> Page {
    Page {
        chunks: vec![Chunk {
            index: 0,
            runs: vec![Run { start: 0, count: 3 }],
            offset: 100,
            frame_bytes: 50,
            frame_hash: Hash::of(b"frame"),
            data_hash: Hash::of(b"data"),
            zero: false,
        }],
    }
}

/// Collects `name hex` lines and checks that each message survives the journey.
#[derive(Default)]
struct Book(String);

impl Book {
    fn add<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &mut self,
        name: &str,
        message: &T,
    ) {
        let bytes = codec::encode(message);
        assert_eq!(&codec::decode::<T>(&bytes, 1 << 20).unwrap(), message, "{name}");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.0, "{name} {hex}").unwrap();
    }
}

fn to_controller(book: &mut Book) {
    let fingerprint = Fingerprint::from(&inventory());
    let enrol = Enrol { token: "t".into(), request: vec![1], fingerprint };
    book.add("open.enrol", &Open::Enrol(enrol));
    let phases = vec![Phase { name: "dhcp".into(), ended_millis: 1500 }];
    let hello =
        Hello { protocol: 1, agent: "0.1.0".into(), boot: boot(), task: Some(task()), phases };
    book.add("open.session", &Open::Session(hello.clone()));
    book.add("open.golden", &Open::Golden(hello));
    let revision = || "lab/debian@7".parse().unwrap();
    let partition = || "sda1".to_owned();
    book.add("open.page", &Open::Page { revision: revision(), partition: partition(), page: 1 });
    let positions = vec![0, 1023];
    let chunks = Open::Chunks { revision: revision(), partition: partition(), page: 0, positions };
    book.add("open.chunks", &chunks);
    book.add("open.packed", &Open::Packed { hash: Hash([7; 32]) });
    book.add("open.upload", &Open::Upload { task: task(), survey: Box::new(survey()) });
    book.add("open.side-file", &Open::SideFile { revision: revision(), name: "gap".into() });
    book.add("open.record", &Open::Record { task: task(), bytes: 300 });
    book.add("open.as-left", &Open::AsLeft { task: task() });
    book.add("inventory", &ToController::Inventory(Box::new(inventory())));
    book.add("heartbeat", &ToController::Heartbeat { uptime_seconds: 9, resident_bytes: 1 << 25 });
    let step = Step::Transfer;
    for (name, what) in [
        ("event.started", TaskEvent::StepStarted { step }),
        ("event.note", TaskEvent::StepNote { step, text: "n".into() }),
        ("event.step-done", TaskEvent::StepDone { step, millis: 12 }),
        ("event.done", TaskEvent::Done { reports: true }),
        ("event.failed", TaskEvent::Failed { step: Some(step), cause: "c".into() }),
        ("event.compared", TaskEvent::Compared { comparison: Box::new(comparison()) }),
    ] {
        book.add(name, &ToController::Event { task: task(), event: Numbered { number: 1, what } });
    }
    let progress = Progress { step, done_bytes: 1, total_bytes: 300, wire_bytes: 0 };
    book.add("progress", &ToController::Progress { task: task(), progress });
    book.add("log", &ToController::Log { level: LogLevel::Warn, text: "l".into() });
    let capture = Work::Capture(Box::new(capture(CaptureSource::Disk)));
    for step in Work::Deploy(Box::new(deploy())).steps().iter().chain(&capture.steps()[1..]) {
        book.add(&format!("step.{step}"), step);
    }
    book.add("step.fresh-ids", &Step::FreshIds);
    book.add("step.compare", &Step::Compare);
}

fn to_agent(book: &mut Book) {
    let granted =
        EnrolReply::Granted { node: node(), certificate: vec![1], manifest_key: vec![2; 32] };
    book.add("enrol.granted", &granted);
    book.add("enrol.refused", &EnrolReply::Refused { reason: "r".into() });
    let waiting = Standing::AwaitingApproval { reason: "r".into() };
    book.add("welcome.new", &ToAgent::Welcome { name: "node1".into(), standing: waiting });
    let standing = Standing::Approved;
    book.add("welcome.approved", &ToAgent::Welcome { name: "node1".into(), standing });
    let work = Work::Deploy(Box::new(deploy()));
    book.add("task.deploy", &ToAgent::Task(Box::new(Task { id: task(), work })));
    let select = SelectSlot { disk: selector(), layout: layout(), slot: 6 };
    let work = Work::SelectSlot(select);
    book.add("task.select-slot", &ToAgent::Task(Box::new(Task { id: task(), work })));
    let slot = CaptureSource::Slot { layout: layout(), slot: 5 };
    for (name, source) in [
        ("task.capture-slot", slot),
        ("task.capture-disk", CaptureSource::Disk),
        ("task.capture-partitions", CaptureSource::Partitions(vec![1, 300])),
    ] {
        let work = Work::Capture(Box::new(capture(source)));
        book.add(name, &ToAgent::Task(Box::new(Task { id: task(), work })));
    }
    for (name, table) in [("mbr", mbr()), ("gpt", gpt())] {
        let work = Work::DeployDisk(Box::new(deploy_disk(table)));
        let task = ToAgent::Task(Box::new(Task { id: task(), work }));
        book.add(&format!("task.deploy-disk.{name}"), &task);
    }
    let work = Work::DeployPartitions(Box::new(deploy_partitions()));
    book.add("task.deploy-partitions", &ToAgent::Task(Box::new(Task { id: task(), work })));
    let work = Work::Compare(Box::new(compare()));
    book.add("task.compare", &ToAgent::Task(Box::new(Task { id: task(), work })));
    let of_disk = Compare { source: CompareSource::Disk, as_left: None, ..compare() };
    let work = Work::Compare(Box::new(of_disk));
    book.add("task.compare.disk", &ToAgent::Task(Box::new(Task { id: task(), work })));
    let work = Work::Golden;
    book.add("task.golden", &ToAgent::Task(Box::new(Task { id: task(), work })));
    book.add("record.kept", &RecordReply::Kept);
    book.add("record.refused", &RecordReply::Refused { reason: "r".into() });
    book.add("ack", &ToAgent::Ack { task: task(), number: 300 });
    book.add("cancel", &ToAgent::Cancel { task: task(), reason: "r".into() });
    book.add("reboot", &ToAgent::Reboot { reason: "r".into() });
    book.add("page", &PageReply::Page(vec![1, 2]));
    book.add("page.unavailable", &PageReply::Unavailable { reason: "r".into() });
    book.add("bundle", &BundleReply::File { bytes: 9 });
    book.add("bundle.unavailable", &BundleReply::Unavailable { reason: "r".into() });
    book.add("chunk", &ChunkHeader::Frame { index: 7, bytes: 50, hash: Hash::of(b"frame") });
    book.add("chunk.unavailable", &ChunkHeader::Unavailable { index: 7, reason: "r".into() });
}

fn upload(book: &mut Book) {
    book.add("upload.head", &UploadPart::Head { bytes: 300, is_last: true });
    book.add("upload.chunk", &UploadPart::Chunk(page().chunks.remove(0)));
    book.add("upload.file", &UploadPart::File { name: "parts".into(), bytes: 5 });
    book.add("upload.finish", &UploadPart::Finish);
    let position = UploadPosition { partitions: 1, head: true, chunks: 300, files: 0 };
    book.add("upload.from", &UploadReply::From(position));
    let revision = "lab/debian@8".parse().unwrap();
    book.add("upload.saved", &UploadReply::Saved { revision });
    let refused = UploadReply::Refused { reason: "r".into(), may_retry: true };
    book.add("upload.refused", &refused);
}

fn stored(book: &mut Book) {
    book.add("manifest", &manifest());
    book.add("manifest.page", &page());
    book.add("as-left", &as_left());
    let token =
        EnrolmentToken { boot: boot(), mac: mac(), expires_unix: 1_700_000_900, golden: true };
    book.add("token.enrolment", &token);
    book.add("token.report", &ReportToken { task: task() });
}

#[test]
fn messages_have_the_bytes_of_their_version() {
    let mut book = Book::default();
    to_controller(&mut book);
    to_agent(&mut book);
    upload(&mut book);
    stored(&mut book);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v7.txt");
    if std::env::var_os("METALCAST_BLESS").is_some() {
        std::fs::write(&file, &book.0).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for (ours, golden) in book.0.lines().zip(golden.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(book.0.lines().count(), golden.lines().count());
}

/// What travels as JSON: the boot segment, which a later agent must still read, and the report of a
/// deployed system, whose writer is a shell script inside an image.
#[test]
fn json_forms_are_stable() {
    let config = BootConfig {
        boot: boot(),
        mac: mac(),
        controllers: vec!["10.77.0.1:7777".parse().unwrap(), "[fd00::1]:7777".parse().unwrap()],
        ca_pem: "PEM".into(),
        unix_time: 1_700_000_000,
        token: "00ff".into(),
    };
    assert_eq!(
        serde_json::to_string(&config).unwrap(),
        r#"{"boot":"01900000-0000-7000-8000-000000000002","mac":"52:54:00:12:34:56","controllers":["10.77.0.1:7777","[fd00::1]:7777"],"ca_pem":"PEM","unix_time":1700000000,"token":"00ff"}"#
    );
    let report = r#"{"token":"t","hostname":"node1","machine_id":"m","kernel":"6.1","root":"/dev/vda5","uptime_seconds":9}"#;
    let report: SystemReport = serde_json::from_str(report).unwrap();
    assert_eq!((report.root.as_str(), report.uptime_seconds), ("/dev/vda5", 9));
}
