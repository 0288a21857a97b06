//! Three hosts, each a network namespace, on one bridge. All of it is gone when the values are
//! dropped.
//!
//! ```text
//! ours: srv0, a bridge, 10.77.0.1/24 ──┬── the client: cli0
//!                                      └── another host: ext0, 10.77.0.2/24
//! ```

use super::{FakeNodes, now_unix};
use crate::{boot::Boot, config::Config, pki::Pki};
use metalcast_shared::id::Mac;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The bridge would else take that of a port, each time that one is added.
const SERVER_MAC: &str = "02:00:00:77:00:01";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The namespaces and a directory.
pub struct Lab {
    server: String,
    client: String,
    other: String,
    dir: tempfile::TempDir,
}

/// Where a program runs.
#[derive(Clone, Copy)]
pub enum Host {
    /// Beside the boot services.
    Ours,
    /// On the third host.
    Other,
}

/// A running program. Dropping it kills it.
pub struct Program {
    child: Child,
    log: PathBuf,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("apt has iproute2");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments} (as root?): {stderr}");
}

fn exec(namespace: &str, command: &[&str]) -> Output {
    let output = Command::new("ip")
        .args(["netns", "exec", namespace])
        .args(command)
        .output()
        .expect("apt has iproute2");
    eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Lab {
    /// Connected and up; the client has no address.
    pub fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let [server, client, other] = ["mcs", "mcc", "mco"].map(|name| format!("{name}-{id}"));
        for namespace in [&server, &client, &other] {
            ip(&format!("netns add {namespace}"));
        }
        let lab = Self { server, client, other, dir };
        let Self { server, client, other, .. } = &lab;
        ip(&format!("-n {server} link add srv0 address {SERVER_MAC} type bridge mcast_snooping 0"));
        ip(&format!("-n {server} address add 10.77.0.1/24 dev srv0"));
        ip(&format!("-n {server} link set srv0 up"));
        for (port, namespace, interface) in [("port1", client, "cli0"), ("port2", other, "ext0")] {
            let peer = format!("peer name {interface} netns {namespace}");
            ip(&format!("-n {server} link add {port} type veth {peer}"));
            ip(&format!("-n {server} link set {port} master srv0 up"));
        }
        ip(&format!("-n {other} address add 10.77.0.2/24 dev ext0"));
        ip(&format!("-n {other} link set ext0 up"));
        lab.set_mac(super::CLIENT);
        lab
    }

    /// A directory of this lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn set_mac(&self, mac: Mac) {
        let client = &self.client;
        ip(&format!("-n {client} address flush dev cli0"));
        ip(&format!("-n {client} link set cli0 down"));
        ip(&format!("-n {client} link set cli0 address {mac} up"));
    }

    /// Gives the client 10.77.0.10.
    pub fn client_address(&self) {
        ip(&format!("-n {} address add 10.77.0.10/24 dev cli0", self.client));
    }

    /// Moves the client behind the other host: `cli0` is then on `rel0` (10.78.0.1/24) there, which
    /// routes.
    pub fn move_behind_the_other_host(&self) {
        let Self { server, client, other, .. } = self;
        ip(&format!("-n {client} link delete cli0"));
        ip(&format!("-n {other} link add rel0 type veth peer name cli0 netns {client}"));
        ip(&format!("-n {other} address add 10.78.0.1/24 dev rel0"));
        ip(&format!("-n {other} link set rel0 up"));
        ip(&format!("-n {server} route add 10.78.0.0/24 via 10.77.0.2"));
        let routed = exec(other, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        assert!(routed.status.success(), "apt has procps");
    }

    /// What the client does with a lease of 10.78.0.0/24.
    pub fn take(&self, lease: &HashMap<String, String>) {
        let Self { client, .. } = self;
        let (address, router) = (&lease["ip"], &lease["router"]);
        ip(&format!("-n {client} address add {address}/24 dev cli0"));
        ip(&format!("-n {client} route add default via {router}"));
    }

    /// Runs a program as the client.
    pub fn client(&self, command: &[&str]) -> Output {
        exec(&self.client, command)
    }

    /// Runs a program beside the boot services.
    pub fn server(&self, command: &[&str]) -> Output {
        exec(&self.server, command)
    }

    /// dnsmasq as this host's DHCP server or relay, with these options beside what keeps it apart
    /// from the machine's own.
    pub fn dnsmasq(&self, host: Host, options: &[&str]) -> Program {
        let (namespace, interface) = match host {
            Host::Ours => (&self.server, "srv0"),
            Host::Other => (&self.other, "ext0"),
        };
        let log = self.dir().join(format!("dnsmasq-{interface}.log"));
        let file = File::create(&log).unwrap();
        let child = Command::new("ip")
            // Changing the user would clear the parent-death signal.
            .args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL", "--", "dnsmasq"])
            .args(["--user=root", "--keep-in-foreground", "--log-facility=-", "--log-dhcp"])
            .args(["--port=0", "--conf-file=/dev/null", "--leasefile-ro", "--no-ping"])
            .args(["--bind-interfaces", &format!("--interface={interface}"), "--pid-file="])
            .args(options)
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("apt has iproute2");
        let program = Program { child, log };
        program.wait_for("DHCP");
        program
    }

    /// Runs this in a thread of the client's namespace, for sockets that are to be in it.
    pub fn as_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.client)).unwrap();
        std::thread::scope(|scope| {
            let moved = move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            scope.spawn(moved).join().unwrap()
        })
    }

    /// The status code that curl gets.
    pub fn http_status(&self, arguments: &[&str]) -> String {
        let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"];
        let output = self.client(&[&curl[..], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asks for a lease as `mac`; the variables that udhcpc gives its script (udhcpc(8)), or `None`
    /// if it got no lease in three attempts.
    pub fn udhcpc(&self, mac: Mac, options: &[&str]) -> Option<HashMap<String, String>> {
        self.set_mac(mac);
        let (script, result) = (self.dir().join("udhcpc.sh"), self.dir().join("udhcpc.env"));
        let text =
            format!("#!/bin/sh\nif [ \"$1\" = bound ]; then env > {}; fi\n", result.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        let _ = fs::remove_file(&result);
        let script = script.to_str().unwrap();
        let udhcpc = ["busybox", "udhcpc", "-i", "cli0", "-n", "-q", "-f", "-t", "3", "-T", "1"];
        let output = self.client(&[&udhcpc[..], &["-s", script], options].concat());
        if !output.status.success() {
            return None;
        }
        let text = fs::read_to_string(result).unwrap();
        let variables = text.lines().filter_map(|line| line.split_once('='));
        Some(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client, &self.other] {
            let deleted = Command::new("ip").args(["netns", "delete", namespace]).status();
            if !deleted.is_ok_and(|status| status.success()) {
                eprintln!("network namespace {namespace} is left behind");
            }
        }
    }
}

impl Program {
    /// Waits for a word in its log.
    pub fn wait_for(&self, word: &str) {
        for _ in 0..500 {
            if fs::read_to_string(&self.log).unwrap().contains(word) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no {word:?} in {}", fs::read_to_string(&self.log).unwrap());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The boot services on a thread of their own, which lives in the server's namespace.
pub struct Server {
    /// What they were told and tell.
    pub nodes: FakeNodes,
    /// Their keys.
    pub pki: Arc<Pki>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Clone, Copy)]
enum Disk {
    Roomy,
    Full,
}

impl Server {
    /// Starts them; they have bound their sockets.
    pub fn start(lab: &Lab, config: Config, nodes: FakeNodes) -> Self {
        Self::launch(lab, config, nodes, Disk::Roomy).unwrap()
    }

    /// The same, or the chain of errors.
    pub fn try_start(lab: &Lab, config: Config, nodes: FakeNodes) -> Result<Self, String> {
        Self::launch(lab, config, nodes, Disk::Roomy)
    }

    /// The same with a state directory on which nothing more fits.
    pub fn start_on_full_disk(lab: &Lab, config: Config, nodes: FakeNodes) -> Self {
        Self::launch(lab, config, nodes, Disk::Full).unwrap()
    }

    fn launch(lab: &Lab, config: Config, nodes: FakeNodes, disk: Disk) -> Result<Self, String> {
        let pki = Pki::open_or_create(&lab.dir().join("pki"), now_unix()).unwrap();
        let pki = Arc::new(pki);
        let shutdown = CancellationToken::new();
        let namespace = File::open(format!("/run/netns/{}", lab.server)).unwrap();
        let (bound, is_bound) = mpsc::channel();
        let thread = {
            let (nodes, pki, shutdown) = (nodes.clone(), pki.clone(), shutdown.clone());
            std::thread::spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                if matches!(disk, Disk::Full) {
                    fill(&config.state_dir);
                }
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    match Boot::bind(&config, nodes, pki).await {
                        Ok(boot) => {
                            bound.send(Ok(())).unwrap();
                            boot.run(shutdown).await
                        }
                        Err(error) => {
                            bound.send(Err(format!("{error:#}"))).unwrap();
                            Ok(())
                        }
                    }
                })
            })
        };
        let server = Self { nodes, pki, shutdown, thread: Some(thread) };
        is_bound.recv().expect("the server's thread lives").map(|()| server)
    }

    /// Ends them and gives what they ended with.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.thread.take().expect("it is stopped once").join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Mounts a file system of one page over `dir` and takes that page. Only the calling thread and
/// those it starts see it, and it goes with them.
fn fill(dir: &Path) {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).unwrap();
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=4096")).unwrap();
    fs::write(dir.join("ballast"), [1; 4096]).unwrap();
}
