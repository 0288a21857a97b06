//! Disks by the command line: from files of the controller's host, and from standard input over the socket.

use crate::rig::{Controller, Outcome, Site};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long something that happens elsewhere may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A disk with an ext4, raw and as a qcow2.
fn disk(site: &Site) -> [PathBuf; 2] {
    let script = "mkdir content; head -c 4M /dev/urandom > content/random
        truncate -s 16M fs; mke2fs -q -t ext4 -d content fs
        truncate -s 20M disk; printf 'label: dos\\n1: start=2048, size=32768, type=83\\n' | sfdisk -q disk
        dd if=fs of=disk bs=1M seek=1 conv=notrunc status=none
        qemu-img convert -f raw -O qcow2 disk qcow2; qemu-img create -q -f qcow2 -b disk -F raw backed";
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(site.path(".")).env("LC_ALL", "C");
    Outcome::run(&mut command).exits(0);
    [site.path("disk"), site.path("qcow2")]
}

/// Imports of which something lies in the store.
fn begun(site: &Site) -> usize {
    let entries = fs::read_dir(site.path("state/images")).unwrap();
    let is_begun = |name: &str| name.starts_with(".import-");
    entries.filter(|entry| is_begun(entry.as_ref().unwrap().file_name().to_str().unwrap())).count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn disks_are_imported_from_files_and_from_standard_input() {
    let site = Site::new();
    site.configure("projects = [{ name = \"lab\", quota_mib = 100 }]");
    let [raw, qcow2] = disk(&site);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let controller = Controller::start(&site);
    let import = |path: &str, more: &[&str]| {
        site.cli(&[&["image", "import", path, "lab/disk"], more].concat())
    };
    import(&text(&raw), &[]).exits(0).prints("lab/disk@1").says("from raw file /");
    import(&text(&qcow2), &[])
        .exits(0)
        .prints("lab/disk@2")
        .says("(sda, virtual size 20971520 bytes)");
    let from_stdin = |more: &[&str]| {
        let mut command = site.command(&[&["image", "import", "-", "lab/disk"], more].concat());
        Outcome::run(command.stdin(File::open(&raw).unwrap()))
    };
    from_stdin(&[]).exits(0).prints("lab/disk@3").says("from raw file standard input (sda, ");
    for number in ["2", "3"] {
        let (one, other) = ("lab/disk@1", format!("lab/disk@{number}"));
        let diff = site.json(&["image", "diff", one, &other]);
        assert_eq!(diff["partitions"][0]["to_send_bytes"], 0, "{diff}");
    }
    from_stdin(&["--name", "vda", "--exact"]).exits(0);
    let shown = site.json(&["image", "show", "lab/disk@4"]);
    assert_eq!(shown[0]["partitions"][0]["name"], "vda1");
    assert_eq!(shown[0]["partitions"][0]["filesystem"], "dd");
    from_stdin(&["--no-wait"]).exits(0).prints("operation 5");
    wait_until("the import ends", || site.cli(&["image", "show", "lab/disk@5"]).code() == Some(0));

    import(&text(&site.path("backed")), &[]).exits(1).says("with the backing file \"disk\"");
    import("/dev/null", &[]).exits(1).says("/dev/null is no directory, file or block device");
    import(&text(&site.path("content")), &["--exact"]).exits(1).says("are for disks");
    // This one has nothing to say.
    import("-", &[]).exits(1).says("standard input cannot be imported: it is empty");
    from_stdin(&["--name", "../x"]).exits(1).says("cannot be the name of a disk");
    site.cli(&["audit"]).exits(0).prints("import standard input as lab/disk");
    assert_eq!(begun(&site), 0);
    site.cli(&["status"]).exits(0).prints("images of lab").prints(" MB of 104.9 MB (");
    controller.stop();
}

#[test]
fn a_stream_that_nobody_sends_on_leaves_nothing() {
    let site = Site::new();
    let controller = Controller::start(&site);
    let mut command = site.command(&["image", "import", "-", "lab/disk"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(&vec![7; 5 << 20]).unwrap();
    wait_until("the import begins", || begun(&site) == 1);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("the controller notices", || {
        controller.log().contains("standard input broke off after")
    });
    wait_until("it is cleared away", || begun(&site) == 0);
    // Nobody can send to what is over, or was never begun.
    for id in ["1", "99", "x"] {
        let head = format!("PUT /api/v1/operations/{id}/stream HTTP/1.1\r\nHost: x\r\n");
        let (status, _, body) =
            site.http(&format!("{head}Connection: close\r\nContent-Length: 1\r\n\r\nx"));
        assert_eq!(status, 409, "{body}");
    }
    controller.stop();
}
