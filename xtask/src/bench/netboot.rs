//! Netbooting: kernel and initramfs over TFTP and HTTP, and DHCP's answers.
//!
//! Two networks of the same shape, one with the controller and one with the rivals, all of them as their packages come:
//! with their logs, on their own ports. curl(1) fetches from both; one load generator asks both for addresses.
//!
//! ```text
//!   controller ──── br0 ── eth0, 16 addresses ── curl, DHCP load
//!   in.tftpd, nginx, dnsmasq ── br0 ── eth0, 16 addresses ── curl, DHCP load
//! ```

mod load;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use metalcast_tests::dnsmasq::Dnsmasq;
use metalcast_tests::lab::{BRIDGE, Lab};
use metalcast_tests::namespace::Namespace;
use metalcast_tests::process::{Background, run};
use metalcast_tests::progress::step;
use metalcast_tests::rig::{Rig, Setup};

use super::{AT_LEAST_AS_MUCH, Figure, in_turns, library_path, shipped};
use crate::initramfs;

/// Rivals with what they need that a Debian may not have. They are unpacked, not installed: nothing of them is to run
/// when the bench is over.
const PACKAGES: [&str; 3] = ["tftpd-hpa", "libwrap0", "nginx"];

/// Clients at a time, at most.
const CLIENTS: u8 = 16;
/// The last byte of the first client's address.
const FIRST_CLIENT: u8 = 10;
/// The controller gives out these boot files over TFTP, each of at most [`MAX_FILE_BYTES`].
const TFTP_NAMES: [&str; 3] = ["undionly.kpxe", "ipxe.efi", "snponly.efi"];
const MAX_FILE_BYTES: usize = 16 << 20;
/// What iPXE asks for on Ethernet.
const TFTP_BLOCK: &str = "1432";
/// How often a client fetches the whole, so that a run is not mostly curl's start.
const HTTP_REPEATS: usize = 10;

/// Measures all figures.
///
/// # Errors
/// When a side cannot be set up, or a client does not get what it asks for.
pub fn measure(runs: u32, options: &initramfs::Options) -> Result<Vec<Figure>> {
    let artefacts = shipped(options, || Ok(()))?;
    let rivals = step("unpacking the rivals", || initramfs::packages(&PACKAGES))?;
    let lab = Lab::new("bench-ours", 41)?;
    let bytes = boot_files(&artefacts.ram_image, lab.dir())?;
    let setup = Setup { ipxe_dir: lab.dir().to_owned(), ..Setup::default() };
    let _rig = Rig::start_with(&lab, &artefacts, &setup)?;
    let ours = Side::of(lab, "ram/")?;
    let lab = Lab::new("bench-theirs", 42)?;
    boot_files(&artefacts.ram_image, lab.dir())?;
    let _tftpd = tftpd(&lab, &rivals["tftpd-hpa"], &rivals["libwrap0"])?;
    let _nginx = nginx(&lab, &rivals["nginx"], &artefacts.ram_image)?;
    let _dnsmasq = Dnsmasq::on_our_host(&lab, &[])?;
    let theirs = Side::of(lab, "")?;

    let mut figures = Vec::new();
    for (protocol, rival, repeats) in
        [(Protocol::Tftp, "tftpd-hpa", 1), (Protocol::Http, "nginx", HTTP_REPEATS)]
    {
        for clients in [1, CLIENTS] {
            let name = format!("{protocol} to {clients}");
            let fetch = |side: &Side| side.fetch(protocol, clients, repeats, bytes);
            let pairs = step(&name, || in_turns(runs, || fetch(&ours), || fetch(&theirs)))?;
            figures.push(Figure { name, unit: "MB/s", rival, pairs, goal: AT_LEAST_AS_MUCH });
        }
    }
    let name = "DHCP answers".to_owned();
    let ask = |side: &Side| load::answers_per_second(&side.clients);
    let pairs = step(&name, || in_turns(runs, || ask(&ours), || ask(&theirs)))?;
    figures.push(Figure { name, unit: "1/s", rival: "dnsmasq", pairs, goal: AT_LEAST_AS_MUCH });
    Ok(figures)
}

/// Writes kernel and initramfs as the boot files that the controller knows; their size together.
fn boot_files(ram_image: &Path, dir: &Path) -> Result<usize> {
    let mut whole = Vec::new();
    for name in ["vmlinuz", "initramfs"] {
        whole.extend(std::fs::read(ram_image.join(name)).context("reading the RAM image")?);
    }
    ensure!(whole.len() <= MAX_FILE_BYTES * TFTP_NAMES.len(), "the RAM image is too large");
    let part = whole.len().div_ceil(TFTP_NAMES.len());
    for (name, part) in TFTP_NAMES.iter().zip(whole.chunks(part)) {
        std::fs::write(dir.join(name), part).context("writing a boot file")?;
    }
    Ok(whole.len())
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Tftp,
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp => "TFTP",
            Self::Http => "HTTP",
        })
    }
}

/// A lab with servers and the host of their clients.
struct Side {
    clients: Namespace,
    lab: Lab,
    /// Where the RAM image's files lie on the HTTP server.
    http_dir: &'static str,
}

impl Side {
    fn of(lab: Lab, http_dir: &'static str) -> Result<Self> {
        let clients = Namespace::new("clients", lab.dir())?;
        let pid = clients.pid().to_string();
        let peer = ["peer", "name", "eth0", "netns", &pid];
        lab.ip(&[&["link", "add", "cable", "type", "veth"], &peer[..]].concat())?;
        lab.ip(&["link", "set", "cable", "master", BRIDGE, "up"])?;
        clients.ip(&["link", "set", "eth0", "up"])?;
        let side = Self { clients, lab, http_dir };
        for client in 0..CLIENTS {
            let address = format!("{}/24", side.client(client));
            side.clients.ip(&["address", "add", &address, "dev", "eth0"])?;
        }
        Ok(side)
    }

    fn client(&self, number: u8) -> Ipv4Addr {
        self.lab.host(FIRST_CLIENT + number)
    }

    /// Has this many clients fetch everything at the same time; megabytes a second, all together.
    fn fetch(&self, protocol: Protocol, clients: u8, repeats: usize, bytes: usize) -> Result<f64> {
        let server = self.lab.address();
        let urls: Vec<String> = match protocol {
            Protocol::Tftp => TFTP_NAMES.map(|name| format!("tftp://{server}/{name}")).into(),
            Protocol::Http => ["vmlinuz", "initramfs"]
                .map(|name| format!("http://{server}/{}{name}", self.http_dir))
                .into(),
        };
        let fetched = urls.iter().map(|url| format!("-o /dev/null {url} ")).collect::<String>();
        let fetched = fetched.repeat(repeats);
        let addresses: Vec<_> = (0..clients).map(|it| self.client(it).to_string()).collect();
        // The clock is read inside, so that entering the namespace does not count.
        let script = format!(
            "start=$(date +%s%N)
             for address in {}; do
                 curl -sSf --max-time 300 --tftp-blksize {TFTP_BLOCK} --interface $address \
                     -w '%{{size_download}}\\n' {fetched} &
                 clients=\"$clients $!\"
             done
             for client in $clients; do wait $client || exit 1; done
             echo $(( $(date +%s%N) - start )) ns",
            addresses.join(" ")
        );
        let printed = run(self.clients.command("sh").args(["-c", &script]))?;
        let number = |line: &str| line.parse::<usize>().ok();
        let got: usize = printed.lines().filter_map(number).sum();
        let expected = bytes * repeats * usize::from(clients);
        ensure!(got == expected, "{protocol}: {got} bytes came of {expected}");
        let taken = printed.lines().find_map(|line| line.strip_suffix(" ns"));
        let nanoseconds: f64 = taken.context("no time was printed")?.parse()?;
        Ok(got as f64 * 1000.0 / nanoseconds)
    }
}

fn tftpd(lab: &Lab, root: &Path, libraries: &Path) -> Result<Background> {
    let mut command = lab.command("env");
    command.arg(library_path(libraries)?);
    command.arg(root.join("usr/sbin/in.tftpd"));
    command.args(["--foreground", "--user", "root", "--secure", "--address"]);
    lab.spawn("tftpd", command.arg(format!("{}:69", lab.address())).arg(lab.dir()))
}

/// As Debian configures it, with paths of ours.
fn nginx(lab: &Lab, root: &Path, files: &Path) -> Result<Background> {
    let dir = lab.dir().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {dir}/nginx-{name};"))
        .join("\n");
    let text = format!(
        "user root;\nworker_processes auto;\npid {dir}/nginx.pid;\ndaemon off;\n\
         error_log {dir}/nginx-error.log;\nevents {{ worker_connections 768; }}\n\
         http {{\nsendfile on;\ntcp_nopush on;\ntypes_hash_max_size 2048;\n{temporary}\n\
         default_type application/octet-stream;\naccess_log {dir}/nginx-access.log;\n\
         server {{ listen {}:80; root {}; }}\n}}\n",
        lab.address(),
        files.display()
    );
    let path = lab.dir().join("nginx.conf");
    std::fs::write(&path, text).context("writing nginx's configuration")?;
    let mut command = lab.command(root.join("usr/sbin/nginx"));
    command.arg("-e").arg(lab.dir().join("nginx-error.log")).arg("-c").arg(&path);
    lab.spawn("nginx", &mut command)
}
