use super::*;
use metalcast_shared::boot::SystemReport;
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    thread::JoinHandle,
};

struct System {
    dir: tempfile::TempDir,
    root: Root,
}

fn system() -> System {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("usr/lib/systemd")).unwrap();
    std::fs::write(dir.path().join("usr/lib/systemd/systemd"), "").unwrap();
    let root = Root::open(dir.path()).unwrap();
    System { dir, root }
}

fn config(port: u16) -> ReportConfig {
    ReportConfig { url: format!("http://127.0.0.1:{port}/report"), token: "0123abcd".into() }
}

/// Answers one request after the other with these statuses; gives the bodies.
fn listen(statuses: &'static [u16]) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        statuses
            .iter()
            .map(|status| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut seen = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let read = stream.read(&mut buffer).unwrap();
                    seen.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&seen);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    assert!(head.starts_with("POST /report HTTP/1."), "{head}");
                    let length = head.lines().find_map(|line| {
                        line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                    });
                    if body.len() == length.unwrap_or(usize::MAX) || read == 0 {
                        let answer = format!(
                            "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        );
                        stream.write_all(answer.as_bytes()).unwrap();
                        break body.to_owned();
                    }
                }
            })
            .collect()
    };
    (port, std::thread::spawn(serve))
}

/// Runs the installed script with only these programs beside the shell.
fn run(system: &System, programs: &[&str]) -> Output {
    let bin = system.dir.path().join("bin");
    let _ = std::fs::remove_dir_all(&bin);
    std::fs::create_dir(&bin).unwrap();
    for program in ["sleep", "rm"].iter().chain(programs) {
        let found = ["/bin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(program));
        let found = found.into_iter().find(|path| path.exists()).expect(program);
        std::os::unix::fs::symlink(found, bin.join(program)).unwrap();
    }
    let etc = system.dir.path().join("etc");
    std::fs::write(etc.join("machine-id"), "feedbeef\n").unwrap();
    Command::new("/bin/sh")
        .arg(etc.join("metalcast/report.sh"))
        .arg(etc.join("metalcast"))
        .env_clear()
        .env("PATH", &bin)
        .env("machine_id_file", etc.join("machine-id"))
        .output()
        .unwrap()
}

#[test]
fn each_way_to_report_says_the_same() {
    for programs in [&["curl"][..], &["wget"], &["bash"], &["bash", "timeout"]] {
        let system = system();
        // The first answer is a failure: it is tried again.
        let (port, bodies) = listen(&[503, 200]);
        install(&system.root, &config(port)).unwrap();
        let output = run(&system, programs);
        assert!(output.status.success(), "{programs:?}: {output:?}");
        let report: SystemReport = serde_json::from_str(&bodies.join().unwrap()[1]).unwrap();
        assert_eq!((report.token.as_str(), report.machine_id.as_str()), ("0123abcd", "feedbeef"));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(
            (report.kernel.as_str(), report.hostname.as_str()),
            (kernel.trim(), hostname.trim())
        );
        assert!(report.root.starts_with("/dev/") || report.root == "overlay", "{}", report.root);
        assert!(report.uptime_seconds > 0);
        assert!(!system.dir.path().join(CONFIG_FILE).exists(), "the token is gone");
        assert!(run(&system, programs).status.success(), "nothing to do without a token");
    }
}

#[test]
fn systemd_takes_the_unit() {
    let system = system();
    install(&system.root, &config(80)).unwrap();
    let unit = system.dir.path().join(UNIT_FILE);
    let wanted = system.dir.path().join(UNIT_LINK);
    assert_eq!(std::fs::read_link(wanted).unwrap().to_str().unwrap(), format!("/{UNIT_FILE}"));
    let text = std::fs::read_to_string(unit).unwrap();
    assert!(text.contains(&format!("/{SCRIPT_FILE}")) && text.contains(&format!("/{CONFIG_FILE}")));
    use std::os::unix::fs::PermissionsExt;
    let mode = system.dir.path().join(CONFIG_FILE).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(remove(&system.root).unwrap().len(), 1);
    assert!(!system.root.exists(CONFIG_FILE) && !system.root.exists(UNIT_FILE));
    assert!(remove(&system.root).unwrap().is_empty());
}

#[test]
fn what_a_shell_would_run_is_refused() {
    let system = system();
    for (url, token) in [
        ("http://h/report", "a'b"),
        ("http://h/$(reboot)", "a"),
        ("http://h/'x", "a"),
        ("ftp://h/x", "a"),
        ("http://h/x", ""),
        ("http://h/\nx", "a"),
    ] {
        let config = ReportConfig { url: url.into(), token: token.into() };
        assert!(install(&system.root, &config).is_err(), "{url} {token}");
    }
}

#[test]
fn a_system_without_systemd_stays_as_it_is() {
    let system = system();
    std::fs::remove_file(system.dir.path().join("usr/lib/systemd/systemd")).unwrap();
    assert!(!can_report(&system.root));
    let told = install(&system.root, &config(80)).unwrap();
    assert!(told[0].contains("has no systemd"), "{told:?}");
    assert!(!system.root.exists(UNIT_FILE) && !system.root.exists(CONFIG_FILE));
}
