//! A directory with a configuration, a controller on loopback ports, and the command line.

use metalcast_controller::{
    jobs::{
        node::NodeState,
        plan::{SlotStage, SlotUse},
    },
    store::{Change, DefaultBoot, NodeRecord, Store},
};
use metalcast_shared::{
    disk::{Content, Disk, DiskSelector},
    hash::Hash,
    id::{Mac, NodeId},
    inventory::{Fingerprint, Inventory},
    layout::Layout,
    table::{FoundPartition, FoundTable, PartitionKind},
    whole_disk::TableId,
};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use uuid::Uuid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_metalcast");

/// How long the controller may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Site {
    dir: TempDir,
    http_port: u16,
}

fn layout() -> Layout {
    Layout {
        name: "lab".into(),
        boot_mib: 64,
        swap_mib: 64,
        reserve_mib: 0,
        slots: 3,
        slot_mib: 512,
    }
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Self { dir, http_port: tcp.local_addr().unwrap().port() };
        site.configure("");
        site
    }

    /// Writes the configuration, with `more` at its top.
    pub fn configure(&self, more: &str) {
        let [tftp, quic] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let Layout { name, boot_mib, swap_mib, reserve_mib, slots, slot_mib } = layout();
        let text = format!(
            "{more}\nstate_dir = {:?}\n[api]\nsocket = {:?}\n\
             [network]\ninterface = \"lo\"\naddress = \"127.0.0.1\"\n\
             http_port = {}\ntftp_port = {}\nquic_port = {}\n[dhcp]\nmode = \"off\"\n\
             [nodes]\ndefault_layout = \"{name}\"\n[[layouts]]\nname = \"{name}\"\n\
             boot_mib = {boot_mib}\nswap_mib = {swap_mib}\nreserve_mib = {reserve_mib}\n\
             slots = {slots}\nslot_mib = {slot_mib}\n",
            self.dir.path().join("state"),
            self.socket(),
            self.http_port,
            port(&tftp),
            port(&quic),
        );
        fs::write(self.config_path(), text).unwrap();
    }

    pub fn config_path(&self) -> String {
        self.dir.path().join("metalcast.toml").to_str().unwrap().to_owned()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// A path in the site's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has the configuration name another state_dir in the site's directory.
    pub fn move_state(&self, name: &str) {
        let text = fs::read_to_string(self.config_path()).unwrap();
        let line = |line: &str| match line.starts_with("state_dir = ") {
            true => format!("state_dir = {:?}\n", self.path(name)),
            false => format!("{line}\n"),
        };
        fs::write(self.config_path(), text.lines().map(line).collect::<String>()).unwrap();
    }

    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> Outcome {
        Outcome::run(&mut self.command(arguments))
    }

    pub fn cli_in_background(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.cli(&all).exits(0).stdout).unwrap()
    }

    /// Sends a request as it is; status, content type and body of the answer.
    pub fn http(&self, request: &str) -> (u16, String, String) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that refuses a long body may close before it has read all of it.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: "));
        (status, kind.unwrap_or("").to_owned(), body.to_owned())
    }

    fn with_store(&self, changes: impl AsyncFnOnce(&Store) -> Vec<Change>) {
        let state = self.dir.path().join("state");
        fs::create_dir_all(&state).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&state.join("metalcast.db")).await.unwrap();
            let changes = changes(&store).await;
            store.apply(&changes).await.unwrap();
            store.close().await;
        });
    }

    /// A node that registered some time ago, with one disk.
    pub fn add_node(&self, name: &str, state: &str, data: bool) {
        let what = "ntfs \"Windows\"".to_owned();
        let content = Content { partition: Some(1), what, bytes: 1 << 30 };
        let windows = FoundPartition {
            number: 1,
            start_bytes: 1 << 20,
            bytes: 1 << 30,
            kind: PartitionKind::Mbr(0x07),
            in_use: None,
        };
        let (contents, table) = match data {
            true => {
                let id = TableId::Mbr(0x77);
                (vec![content], Some(FoundTable { id, partitions: vec![windows] }))
            }
            false => (Vec::new(), None),
        };
        let disk = Disk { contents, table, ..disk(name) };
        let mac = Mac([2, 0, 0, 0, 0, name.as_bytes()[name.len() - 1]]);
        let record = NodeRecord {
            id: NodeId(Uuid::now_v7()),
            name: name.into(),
            state: match state {
                "ready" => NodeState::Ready,
                _ => NodeState::New,
            },
            fingerprint: Fingerprint { macs: vec![mac], ..Fingerprint::default() },
            candidate: None,
            key: Hash([0; 32]),
            inventory: Some(Inventory { disks: vec![disk], ..Inventory::default() }),
            layout: None,
            default_boot: DefaultBoot::RamImage,
            boot_mac: mac,
            enrolled: 1,
            registered: Some(1),
            last_seen: 1,
        };
        self.with_store(async |_| vec![Change::Node(Box::new(record))]);
    }

    /// A system that was deployed to slot 5 of the node.
    pub fn add_slot(&self, name: &str) {
        let used = SlotUse {
            disk: DiskSelector::of(&disk(name)).unwrap().to_string(),
            slot: 5,
            layout: layout(),
            image: "lab/old@1".parse().unwrap(),
            stage: SlotStage::Deployed,
            at_unix_ms: 1,
        };
        self.with_store(async |store| {
            let nodes = store.nodes().await.unwrap();
            let node = nodes.iter().find(|node| node.name == name).unwrap().id;
            vec![Change::Slot { node, used }]
        });
    }

    /// A Clonezilla image of a small ext4 filesystem, made by the real tools.
    pub fn clonezilla_image(&self) -> String {
        let script = "
            mkdir image content; seq 1 100000 > content/text
            truncate -s 16M fs; mke2fs -q -t ext4 -d content fs
            truncate -s 20M disk
            printf 'label: dos\\n1: start=2048, size=32768, type=83\\n' | sfdisk -q disk
            sfdisk -d disk | sed 's|disk1|/dev/sda1|; s|device: disk|device: /dev/sda|' > image/sda-pt.sf
            parted -s disk unit s print | sed 's|^Disk /.*: |Disk /dev/sda: |' > image/sda-pt.parted
            head -c 512 disk > image/sda-mbr; echo sda > image/disk; echo sda1 > image/parts
            partclone.ext4 -L log -c -s fs -o plain; zstd -q plain -o image/sda1.ext4-ptcl-img.zst";
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(self.dir.path()).env("LC_ALL", "C");
        Outcome::run(&mut command).exits(0);
        self.dir.path().join("image").to_str().unwrap().to_owned()
    }

    /// The program where every user may run it.
    pub fn public_copy_of_the_program(&self) -> PathBuf {
        let copy = self.dir.path().join("metalcast");
        fs::copy(PROGRAM, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }
}

fn disk(node: &str) -> Disk {
    Disk {
        name: "vda".into(),
        serial: Some(format!("D-{node}")),
        bytes: 4 << 30,
        logical_sector: 512,
        ..Disk::default()
    }
}

/// How a program ended.
pub struct Outcome {
    code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn run(command: &mut Command) -> Self {
        Self::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub fn code(&self) -> Option<i32> {
        self.code
    }

    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// On stderr.
    pub fn says(&self, part: &str) -> &Self {
        assert!(self.stderr.contains(part), "{part:?} is not said in\n{}", self.stderr);
        self
    }

    /// On stdout.
    pub fn prints(&self, part: &str) -> &Self {
        assert!(self.stdout.contains(part), "{part:?} is not printed in\n{}", self.stdout);
        self
    }
}

/// A running controller; it does not outlive its test.
pub struct Controller {
    child: Option<Child>,
    log: PathBuf,
}

impl Controller {
    pub fn start(site: &Site) -> Self {
        let log = site.dir.path().join("log");
        let file = fs::File::create(&log).unwrap();
        let mut command = site.command(&["serve", "--config", &site.config_path()]);
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut controller = Self { child: Some(child), log };
        let deadline = Instant::now() + PATIENCE;
        while site.cli(&["status"]).code != Some(0) {
            let ended = controller.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}", read(&controller.log));
            std::thread::sleep(Duration::from_millis(50));
        }
        controller
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Asks it to stop, and checks that it does, in order.
    pub fn stop(mut self) {
        let mut child = self.child.take().unwrap();
        signal(&child, "TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}\n{}", read(&self.log));
                return;
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not stop\n{}", read(&self.log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As a power cut would.
    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(status.unwrap().success());
}
