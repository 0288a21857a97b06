//! A backup is made of a controller at work, and takes its place.

use crate::{
    agent::Agent,
    rig::{Controller, Site},
};
use metalcast_shared::{id::Mac, to_agent::Standing};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x77]);

fn file(site: &Site, name: &str) -> String {
    site.path(name).to_str().unwrap().to_owned()
}

/// Names and modes.
fn tree(dir: &Path) -> Vec<String> {
    let mut command = Command::new("find");
    let output = command.arg(dir).args(["-mindepth", "1", "-printf", "%P %m\n"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_backup_of_a_controller_at_work_takes_its_place() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_slot("node1");
    let controller = Controller::start(&site);
    let agent = Agent::enrol(site.http_port(), MAC);
    site.cli(&["node", "approve", "node2"]).exits(0);
    assert_eq!(agent.session(), ("node2".to_owned(), Standing::Approved));
    site.cli(&["boot", "node1", "--slot", "5"]).exits(0);
    let before = site.json(&["node", "list"]);
    assert_eq!(before.as_array().unwrap().len(), 2);

    let backup = file(&site, "backup.tar");
    site.cli(&["backup", &backup]).exits(0).prints("metalcast.db").says("images are not in it");
    site.cli(&["backup", &backup]).exits(1).says("exists");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let state = site.path("state");
    assert!(!state.join("backup.tmp").exists(), "{:?}", tree(&state));
    // Any tar reads it, and any b3sum would check it.
    let listed = Command::new("tar").args(["-tf", &backup]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with("backup.json\nmetalcast.toml\npki/ca.pem\n"), "{listed}");
    // What happens later is not in it.
    site.cli(&["node", "rename", "node2", "later"]).exits(0);

    let config = site.config_path();
    let restore = |more: &[&str]| {
        let mut arguments = vec!["restore", &backup, "--config", &config];
        arguments.extend(more);
        site.cli(&arguments)
    };
    restore(&[]).exits(1).says("is not empty").says("state_dir");
    controller.stop();
    let ca = fs::read(state.join("pki/ca.pem")).unwrap();
    site.move_state("moved");
    let moved = site.path("moved");
    restore(&["--dry-run"]).exits(0).prints("would restore into").prints("pki/ca.key");
    assert!(!moved.exists());
    // Images may have been copied there already.
    fs::create_dir_all(moved.join("images")).unwrap();
    restore(&[]).exits(0).says("1 tasks had not ended").says("copy those of");
    restore(&[]).exits(1).says("is not empty");
    assert_eq!(fs::read(moved.join("pki/ca.pem")).unwrap(), ca);
    assert_eq!(
        tree(&moved.join("pki")),
        ["ca.key 600", "ca.pem 644", "manifest.key 600", "seal.key 600"]
    );

    let controller = Controller::start(&site);
    let after = site.json(&["node", "list"]);
    for (field, at) in [("id", 0), ("name", 0), ("macs", 1), ("name", 1), ("state", 1)] {
        assert_eq!(after[at][field], before[at][field]);
    }
    // The certificate of before the backup, without enrolling again.
    assert_eq!(agent.session(), ("node2".to_owned(), Standing::Approved));
    // Work is not begun again by itself, and can be asked for.
    let job = site.json(&["job", "show", "1"]);
    assert_eq!(job["state"], "failed", "{job}");
    assert!(job["tasks"][0]["cause"].as_str().unwrap().contains("restore a backup of 2"), "{job}");
    site.cli(&["boot", "node1", "--slot", "5"]).exits(0).prints("job 2");
    site.cli(&["audit"]).exits(0).prints("back up").prints("restore a backup of");
    controller.stop();
}

#[test]
fn what_is_not_a_whole_backup_is_refused_before_anything_is_written() {
    let site = Site::new();
    let controller = Controller::start(&site);
    let backup = file(&site, "backup.tar");
    site.cli(&["backup", &backup]).exits(0);
    controller.stop();
    site.move_state("moved");
    let (config, moved) = (site.config_path(), site.path("moved"));
    let good = fs::read(&backup).unwrap();
    let at = |text: &[u8]| good.windows(text.len()).position(|window| window == text).unwrap();
    let damaged = file(&site, "damaged.tar");
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&damaged, bytes).unwrap();
        for more in [&["--dry-run"][..], &[]] {
            let mut arguments = vec!["restore", &damaged, "--config", &config];
            arguments.extend(more);
            site.cli(&arguments).exits(1).says(expected).says("damaged.tar");
        }
        assert!(!moved.exists(), "{expected}");
    };
    let flipped = |position: usize| {
        let mut bytes = good.clone();
        bytes[position] ^= 1;
        bytes
    };
    check(b"", "it ends before backup.json");
    check(&[b'x'; 2000], "reading it as a tar file");
    check(&flipped(at(b"BEGIN CERTIFICATE") + 40), "pki/ca.pem is damaged");
    check(&flipped(at(b"SQLite format 3") + 5000), "metalcast.db is damaged");
    check(&flipped(at(b"pki/seal.key\0")), "reading it as a tar file, before pki/seal.key");
    check(&good[..at(b"SQLite format 3") + 9000], "metalcast.db");
    check(&good[..at(b"SQLite format 3") - 512], "it ends before metalcast.db");
    check(&flipped(at(b"\"format\": 1") + 10), "it is of form 0, and this program reads 1");
    let name = at(b"pki/ca.key\",");
    let mut outside = good.clone();
    outside[name..][..10].copy_from_slice(b"../ca.keyy");
    check(&outside, "names other files than a backup has");

    // A restore that was cut short is not taken for a controller.
    fs::create_dir(&moved).unwrap();
    fs::write(moved.join("restore.unfinished"), "").unwrap();
    site.cli(&["serve", "--config", &config]).exits(1).says("was cut short").says("restore again");
    let arguments = ["restore", &backup, "--config", &config];
    site.cli(&arguments).exits(1).says("it has restore.unfinished");

    // A full disk leaves nothing.
    let mount = site.path("full");
    fs::create_dir(&mount).unwrap();
    site.move_state("full/state");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_metalcast"));
    let script = format!(
        "mount -t tmpfs -o size=64k none {0}; {1} restore {backup} --config {config} && exit 1
         test -z \"$(ls -A {0})\"",
        mount.display(),
        program.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", &script]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && text.contains("No space left on device"), "{text}");
}
