//! A service on a temporary database, a made-up image, and agents that are a channel.

use crate::{
    config::Config,
    images::DiskImage,
    service::{
        AGENT_QUEUE, BootEvent, BootEventKind, Catalog, EnrolRefusal, Parts, Refusal,
        ReportRefusal, Role, ScriptAnswer, Service, SessionId,
        view::{BootRequest, DeployAnswer, DeployRequest, JobView, TaskView},
    },
    store::Store,
};
use metalcast_formats::tar;
use metalcast_netboot::table::BootAnswer;
use metalcast_shared::{
    boot::{EnrolmentToken, ReportToken, SystemReport},
    disk::{Content, Disk},
    event::{Numbered, Step, TaskEvent},
    hash::Hash,
    id::{BootId, ImageName, JobId, Mac, NodeId, Revision, TaskId},
    inventory::{Fingerprint, Inventory, Nic, Smbios},
    manifest::{Manifest, Partition, SignedManifest},
    to_agent::{Task, ToAgent},
    to_controller::{Hello, Phase, ToController},
    version,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};
use tokio::sync::mpsc;
use uuid::Uuid;

const CONFIG: &str = r#"
[network]
interface = "lo"
address = "127.0.0.1"
[dhcp]
mode = "off"
[nodes]
default_layout = "lab"
[[layouts]]
name = "lab"
boot_mib = 64
swap_mib = 64
reserve_mib = 0
slots = 3
slot_mib = 512
"#;

pub const IMAGE: &str = "lab/debian@1";

#[derive(Default)]
pub struct OneImage {
    removed: AtomicBool,
    /// What it is as a whole disk, if it is one.
    pub disk: Mutex<Option<DiskImage>>,
    /// The filesystem of its partition, if not ext4.
    pub filesystem: Mutex<Option<&'static str>>,
    /// What it says of itself, if it is an archive.
    pub index: Mutex<tar::Index>,
    /// Archives of running systems.
    pub clones: Mutex<BTreeSet<Revision>>,
    /// Bytes that those need.
    pub clone_bytes: AtomicI64,
}

impl OneImage {
    fn revision() -> Revision {
        IMAGE.parse().unwrap()
    }
}

impl Catalog for OneImage {
    fn latest(&self, image: &ImageName) -> anyhow::Result<Option<Revision>> {
        Ok(Some(Self::revision()).filter(|revision| revision.image == *image))
    }

    fn manifest(&self, revision: &Revision) -> anyhow::Result<Option<(Manifest, SignedManifest)>> {
        let is_clone = self.clones.lock().unwrap().contains(revision);
        if !is_clone && (*revision != Self::revision() || self.removed.load(Ordering::Relaxed)) {
            return Ok(None);
        }
        let mut partition = Partition {
            name: "sda1".into(),
            filesystem: self.filesystem.lock().unwrap().unwrap_or("ext4").into(),
            file: "sda1.ext4-ptcl-img.zst".into(),
            block_bytes: 4096,
            total_blocks: 100_000,
            used_blocks: 10_000,
            device_bytes: 100_000 * 4096,
            chunk_blocks: 256,
            chunks: 0,
            head_bytes: 100,
            file_bytes: 5_000_100,
            pages: Vec::new(),
        };
        if is_clone {
            (partition.name, partition.filesystem) = ("system".into(), "tar".into());
            partition.device_bytes = self.clone_bytes.load(Ordering::Relaxed).cast_unsigned();
        }
        let manifest = Manifest {
            version: version::MANIFEST,
            revision: revision.clone(),
            created_unix: 0,
            provenance: "made up".into(),
            partitions: vec![partition],
        };
        let root = manifest.encode();
        Ok(Some((manifest, SignedManifest { root, signature: vec![0; 64] })))
    }

    fn whole_disk(&self, _: &Revision) -> anyhow::Result<Result<DiskImage, String>> {
        Ok(self.disk.lock().unwrap().clone().ok_or_else(|| "it holds no whole disk".to_owned()))
    }

    fn archive_index(&self, _: &Revision, _: &str) -> anyhow::Result<tar::Index> {
        Ok(self.index.lock().unwrap().clone())
    }

    fn remove(&self, _: &Revision) -> anyhow::Result<bool> {
        Ok(!self.removed.swap(true, Ordering::Relaxed))
    }

    fn clones(&self) -> anyhow::Result<Vec<Revision>> {
        Ok(self.clones.lock().unwrap().iter().cloned().collect())
    }

    fn remove_clone(&self, revision: &Revision) -> anyhow::Result<()> {
        self.clones.lock().unwrap().remove(revision);
        Ok(())
    }
}

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub service: Service,
    pub now: Arc<AtomicI64>,
    pub tokens: Arc<Mutex<Vec<ReportToken>>>,
    pub catalog: Arc<OneImage>,
    config: String,
}

async fn open(
    dir: &Path,
    config: &str,
    now: &Arc<AtomicI64>,
    tokens: &Arc<Mutex<Vec<ReportToken>>>,
    catalog: &Arc<OneImage>,
) -> Service {
    let config = Config::parse(Path::new("test.toml"), config).unwrap();
    let (clock, sealed) = (Arc::clone(now), Arc::clone(tokens));
    let parts = Parts {
        store: Store::open(&dir.join("metalcast.db")).await.unwrap(),
        catalog: Arc::clone(catalog) as Arc<dyn Catalog>,
        seal_report: Arc::new(move |token| {
            sealed.lock().unwrap().push(token.clone());
            format!("sealed-{}", token.task.generation)
        }),
        clock: Arc::new(move || clock.fetch_add(1, Ordering::Relaxed)),
    };
    Service::open(&config, parts).await.unwrap()
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(ToOwned::to_owned).await
    }

    pub async fn with(change: impl Fn(&str) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let tokens = Arc::default();
        let config = change(CONFIG);
        let catalog = Arc::default();
        let service = open(dir.path(), &config, &now, &tokens, &catalog).await;
        Self { dir, service, now, tokens, catalog, config }
    }

    /// Ends the service as a crash would, nothing is written, and starts another one on its store.
    pub async fn restart(&mut self) {
        let Self { dir, config, now, tokens, catalog, .. } = self;
        self.service = open(dir.path(), config, now, tokens, catalog).await;
    }

    pub fn pass_minutes(&self, minutes: i64) {
        self.now.fetch_add(minutes * 60_000, Ordering::Relaxed);
    }

    pub fn answer(&self, machine: &Machine) -> BootAnswer {
        self.service.boot_table().borrow().answer(machine.mac)
    }

    pub async fn boot_event(&self, machine: &Machine, kind: BootEventKind) {
        let at_unix_ms = self.now.load(Ordering::Relaxed);
        self.service.boot_event(BootEvent { mac: machine.mac, at_unix_ms, kind }).await;
    }

    pub async fn deploy(&self, node: &str) -> Result<DeployAnswer, Refusal> {
        self.deploy_with(node, |_| ()).await
    }

    pub async fn deploy_with(
        &self,
        node: &str,
        change: impl Fn(&mut DeployRequest),
    ) -> Result<DeployAnswer, Refusal> {
        let mut request = DeployRequest {
            image: "lab/debian".into(),
            slot: Some(5),
            nodes: vec![node.into()],
            ..DeployRequest::default()
        };
        change(&mut request);
        self.service.deploy(&request, "tester").await
    }

    pub async fn boot_slot(&self, node: &str, slot: u16) -> Result<JobId, Refusal> {
        let request = BootRequest { nodes: vec![node.into()], slot, timeout_seconds: None };
        Ok(self.service.boot_slot(&request, "tester").await?.job)
    }

    pub async fn job(&self, id: JobId) -> JobView {
        self.service.job(id).await.unwrap()
    }

    pub async fn task(&self, id: JobId) -> TaskView {
        let mut tasks = self.job(id).await.tasks;
        assert_eq!(tasks.len(), 1);
        tasks.remove(0)
    }

    /// Checks the state of a job's only task.
    pub async fn check(&self, id: JobId, state: &str) {
        let task = self.task(id).await;
        assert_eq!(task.state, state, "{task:#?}");
    }

    pub async fn report(&self, token: ReportToken) -> Result<(), ReportRefusal> {
        self.report_as("0123", token).await
    }

    pub async fn report_as(
        &self,
        machine_id: &str,
        token: ReportToken,
    ) -> Result<(), ReportRefusal> {
        let report = SystemReport {
            token: "opened already".into(),
            hostname: "node1".into(),
            machine_id: machine_id.into(),
            kernel: "6.1.0".into(),
            root: "/dev/vda5".into(),
            uptime_seconds: 12,
        };
        self.service.system_report(token, report, IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// The token that went out with the last hand-out.
    pub fn last_token(&self) -> ReportToken {
        self.tokens.lock().unwrap().last().unwrap().clone()
    }

    /// A machine that netbooted, enrolled and registered.
    pub async fn agent(&self, machine: &Machine) -> Agent {
        let (boot, node) = self.netboot(machine, 1).await;
        let node = node.unwrap();
        let mut agent = self.connect(machine, node, boot, None).await;
        agent.say(ToController::Inventory(Box::new(machine.inventory()))).await.unwrap();
        assert!(matches!(agent.heard(), Some(ToAgent::Welcome { .. })));
        agent
    }

    /// An approved and registered node that is called node1.
    pub async fn approved(&self, machine: &Machine) -> Agent {
        let mut agent = self.agent(machine).await;
        self.service.approve("node1", "tester").await.unwrap();
        assert!(matches!(agent.heard(), Some(ToAgent::Welcome { .. })));
        agent
    }

    /// A machine that runs its own system, which is approved as `name`.
    pub async fn golden(&self, machine: &Machine, name: &str) -> Agent {
        let boot = BootId(Uuid::now_v7());
        let token = EnrolmentToken { boot, mac: machine.mac, expires_unix: i64::MAX, golden: true };
        let node = self.service.enrol(token, Hash([77; 32]), machine.fingerprint()).await.unwrap();
        let mut agent = self.connect_as(Role::Golden, machine, node, (boot, None)).await;
        agent.say(ToController::Inventory(Box::new(machine.inventory()))).await.unwrap();
        self.service.approve(name, "tester").await.unwrap();
        while agent.heard().is_some_and(|heard| !matches!(heard, ToAgent::Task(_))) {}
        agent
    }

    /// From the boot script to the enrolment with a key of this number.
    pub async fn netboot(
        &self,
        machine: &Machine,
        key: u8,
    ) -> (BootId, Result<NodeId, EnrolRefusal>) {
        let boot = BootId(Uuid::now_v7());
        self.boot_event(machine, BootEventKind::DhcpAck { ip: Ipv4Addr::LOCALHOST }).await;
        let answer = ScriptAnswer::RamImage;
        self.boot_event(machine, BootEventKind::Script { answer, boot: Some(boot) }).await;
        // The kernel and the agent take their time.
        self.now.fetch_add(5000, Ordering::Relaxed);
        (boot, self.enrol(machine, boot, key).await)
    }

    pub async fn enrol(
        &self,
        machine: &Machine,
        boot: BootId,
        key: u8,
    ) -> Result<NodeId, EnrolRefusal> {
        let token =
            EnrolmentToken { boot, mac: machine.mac, expires_unix: i64::MAX, golden: false };
        self.service.enrol(token, Hash([key; 32]), machine.fingerprint()).await
    }

    /// The key that the node's agent has to hold.
    pub async fn key(&self, node: NodeId) -> Hash {
        self.service.core().await.nodes[&node].key
    }

    /// Whether the agent of the node may read the image.
    pub async fn may_read(&self, node: NodeId) -> bool {
        self.service.may_read(node, self.key(node).await, &IMAGE.parse().unwrap())
    }

    pub async fn connect(
        &self,
        machine: &Machine,
        node: NodeId,
        boot: BootId,
        task: Option<TaskId>,
    ) -> Agent {
        self.connect_as(Role::Node, machine, node, (boot, task)).await
    }

    pub async fn connect_as(
        &self,
        role: Role,
        machine: &Machine,
        node: NodeId,
        (boot, task): (BootId, Option<TaskId>),
    ) -> Agent {
        let (to_agent, from_controller) = mpsc::channel(AGENT_QUEUE);
        let hello = self.hello(boot, task);
        let key = self.key(node).await;
        let session = self.service.session_opened(node, key, hello, role, to_agent).await.unwrap();
        let (service, machine) = (self.service.clone(), machine.clone());
        Agent { service, machine, node, boot, session, from_controller, said: 0, task: None }
    }

    pub fn hello(&self, boot: BootId, task: Option<TaskId>) -> Hello {
        Hello {
            protocol: version::PROTOCOL,
            agent: "test".into(),
            boot,
            task,
            phases: vec![
                Phase { name: "mounts".into(), ended_millis: 900 },
                Phase { name: "dhcp".into(), ended_millis: 2500 },
            ],
        }
    }
}

#[derive(Clone)]
pub struct Machine {
    pub mac: Mac,
    pub serial: String,
    pub disks: Vec<Disk>,
}

impl Machine {
    pub fn new(number: u8) -> Self {
        let disk = Disk {
            name: "vda".into(),
            serial: Some(format!("D{number}")),
            bytes: 4 << 30,
            logical_sector: 512,
            ..Disk::default()
        };
        Self { mac: Mac([2, 0, 0, 0, 0, number]), serial: format!("S{number}"), disks: vec![disk] }
    }

    pub fn with_data(mut self) -> Self {
        let what = "ntfs \"Windows\"".to_owned();
        self.disks[0].contents.push(Content { partition: Some(1), what, bytes: 1 << 30 });
        self
    }

    pub fn inventory(&self) -> Inventory {
        let nic = Nic {
            name: "eth0".into(),
            mac: self.mac,
            driver: None,
            link: true,
            speed_mbit: None,
            pci_id: None,
            boot: true,
        };
        let serial = Some(self.serial.clone());
        Inventory {
            disks: self.disks.clone(),
            nics: vec![nic],
            smbios: Smbios { serial, ..Smbios::default() },
            ..Inventory::default()
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::from(&self.inventory())
    }
}

pub struct Agent {
    service: Service,
    pub machine: Machine,
    pub node: NodeId,
    pub boot: BootId,
    pub session: SessionId,
    from_controller: mpsc::Receiver<ToAgent>,
    said: u32,
    pub task: Option<Task>,
}

impl Agent {
    pub async fn say(&self, message: ToController) -> anyhow::Result<()> {
        self.service.from_agent(self.node, self.session, message).await
    }

    /// The next message; sending never waits, so what is not there will not come.
    pub fn heard(&mut self) -> Option<ToAgent> {
        let message = self.from_controller.try_recv().ok()?;
        if let ToAgent::Task(task) = &message {
            if self.task.as_ref().map(|task| task.id) != Some(task.id) {
                self.said = 0;
            }
            self.task = Some((**task).clone());
        }
        Some(message)
    }

    pub fn is_cut_off(&mut self) -> bool {
        while self.from_controller.try_recv().is_ok() {}
        self.from_controller.is_closed()
    }

    /// Takes the task that must be waiting.
    pub fn take_task(&mut self) -> Task {
        loop {
            match self.heard() {
                Some(ToAgent::Task(task)) => return *task,
                Some(_) => {}
                None => panic!("no task"),
            }
        }
    }

    pub fn id(&self) -> TaskId {
        self.task.as_ref().expect("a task was taken").id
    }

    /// Says the next event and hears that it was kept.
    pub async fn event(&mut self, what: TaskEvent) {
        self.said += 1;
        self.repeat(self.said, what).await.unwrap();
        let (task, number) = (self.id(), self.said);
        loop {
            match self.heard() {
                Some(ToAgent::Ack { task: acked, number: kept }) => {
                    assert_eq!((acked, kept), (task, number));
                    return;
                }
                Some(_) => {}
                None => panic!("event {number} was not acknowledged"),
            }
        }
    }

    pub async fn repeat(&self, number: u32, what: TaskEvent) -> anyhow::Result<()> {
        let event = Numbered { number, what };
        self.say(ToController::Event { task: self.id(), event }).await
    }

    pub async fn step(&mut self, step: Step) {
        self.event(TaskEvent::StepStarted { step }).await;
        self.event(TaskEvent::StepDone { step, millis: 5 }).await;
    }

    /// All steps of the task.
    pub async fn work(&mut self) {
        for step in self.task.as_ref().unwrap().work.steps() {
            self.step(step).await;
        }
        self.event(TaskEvent::Done { reports: true }).await;
    }

    /// The machine loses power.
    pub async fn vanish(self) -> Machine {
        self.service.session_closed(self.node, self.session, "time-out".into()).await;
        self.machine
    }
}

/// The code of a conflict.
pub fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> &'static str {
    match result.unwrap_err() {
        Refusal::Conflict { code, .. } => code,
        other => panic!("{other:?}"),
    }
}
