//! The command line and the API as operators meet them: the real binary, its real socket, exit
//! codes. Nodes are written into the database before the controller starts; no machine is needed.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod clone;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod rig;

use rig::{Controller, Site};
use std::{
    io::Write,
    os::unix::{net::UnixStream, process::CommandExt},
    process::Command,
    time::{Duration, Instant},
};

#[test]
fn help_and_usage() {
    let site = Site::new();
    let help = site.cli(&["--help"]);
    help.exits(0);
    for part in ["Exit codes:", "7    the time of --wait is over", "deploy", "METALCAST_SOCKET"] {
        assert!(help.stdout.contains(part), "{part} is missing in\n{}", help.stdout);
    }
    site.cli(&["deploy"]).exits(2).says("--slot");
    site.cli(&["deploy", "Not An Image", "--slot", "5", "--nodes", "a"])
        .exits(2)
        .says("project/name");
    site.cli(&["nonsense"]).exits(2);
}

/// The shells that are here load what is printed, and bash completes with it.
#[test]
fn shells_complete_commands() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish"] {
        site.cli(&["completion", shell]).exits(0).prints("metalcast");
    }
    let script = site.path("completion");
    std::fs::write(&script, &site.cli(&["completion", "bash"]).stdout).unwrap();
    for (words, expected) in [
        (&["metalcast", "no"][..], "node"),
        (&["metalcast", "node", "ren"], "rename"),
        (&["metalcast", "completion", "z"], "zsh"),
        (&["metalcast", "image", "rm", "--dry"], "--dry-run"),
    ] {
        let line: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let command = format!(
            "set -eu; . {}; complete -p metalcast >&2
             COMP_WORDS=({}) COMP_CWORD={} COMPREPLY=()
             function=$(complete -p metalcast | sed 's/.*-F \\([^ ]*\\).*/\\1/')
             \"$function\" metalcast {} {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            line.join(" "),
            words.len() - 1,
            line[line.len() - 1],
            line[line.len() - 2],
        );
        let outcome = rig::Outcome::run(Command::new("bash").args(["-c", &command]));
        assert_eq!(outcome.exits(0).says("-F _metalcast").stdout, format!("{expected}\n"));
    }
}

#[test]
fn the_configuration_can_be_checked_and_shown() {
    let site = Site::new();
    let path = site.config_path();
    site.cli(&["config", "check", "--config", &path]).exits(0);
    let shown = site.cli(&["config", "show", "--config", &path]).exits(0).stdout.clone();
    assert!(shown.contains("quic_port") && shown.contains("[[layouts]]"), "{shown}");
    site.configure("slotz = 1");
    site.cli(&["config", "check", "--config", &path]).exits(1).says("slotz").says(&path);
    site.cli(&["serve", "--config", "/nonexistent"]).exits(1).says("--config");
}

#[test]
fn without_a_controller_it_says_what_to_do() {
    let site = Site::new();
    site.cli(&["status"]).exits(1).says("is `metalcast serve` running?");
}

#[test]
fn what_does_not_exist_has_its_own_exit_code() {
    let site = Site::new();
    let controller = Controller::start(&site);
    let status = site.cli(&["status"]);
    status
        .exits(0)
        .prints("CONTROLLER")
        .prints("certificate of the authority")
        .prints(" days left");
    let status = site.json(&["status"]);
    assert_eq!(status["nodes"], 0);
    let left = |at: usize| status["certificates"][at]["days_left"].as_i64().unwrap();
    assert!((3652..=3653).contains(&left(0)) && (364..=365).contains(&left(1)), "{status}");
    assert_eq!(site.json(&["node", "list"]), serde_json::json!([]));
    for arguments in [
        &["node", "show", "node9"][..],
        &["node", "approve", "node9"],
        &["node", "rm", "node9"],
        &["node", "logs", "node/../9"],
        &["job", "show", "9"],
        &["job", "watch", "9"],
        &["job", "logs", "9"],
        &["job", "cancel", "9"],
        &["image", "show", "lab/debian"],
        &["image", "rm", "lab/debian@1"],
        &["deploy", "lab/debian", "--slot", "5", "--nodes", "node9"],
        &["boot", "node9", "--slot", "5"],
    ] {
        site.cli(arguments).exits(3);
    }
    site.cli(&["image", "import", "/nonexistent", "lab/debian"]).exits(1).says("/nonexistent");
    site.cli(&["node", "set", "node9"]).exits(2).says("--layout");
    site.cli(&["node", "rename", "node9", "node8"]).exits(3);
    controller.stop();
}

#[test]
fn the_api_answers_with_problem_documents() {
    let site = Site::new();
    let controller = Controller::start(&site);
    let check = |request: &str, status: u16, code: &str| {
        let (answered, kind, body) = site.http(request);
        assert_eq!((answered, kind.as_str()), (status, "application/problem+json"), "{request}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], code, "{request}: {body}");
        assert_eq!(problem["status"], status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    };
    let post = |path: &str, body: &str| {
        format!(
            "POST /api/v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    check(&get("/api/v1/jobs/7"), 404, "not-found");
    check(&get("/api/v1/jobs/seven"), 400, "invalid");
    check(&get("/api/v1/jobs/7/events?after=x"), 400, "invalid");
    check(&get("/api/v2/jobs"), 404, "no-such-path");
    check(&post("/jobs", "{}"), 405, "no-such-method");
    check(&post("/deployments", "{"), 400, "invalid");
    check(
        &post("/deployments", r#"{"image":"a/b","slot":5,"nodes":["n"],"slotz":1}"#),
        400,
        "invalid",
    );
    check(&post("/images/import", r#"{"path":"relative","name":"a/b"}"#), 400, "invalid");
    check(&post("/images/a/b/export", r#"{"path":"relative"}"#), 400, "invalid");
    check(
        &post("/images/a/b/export", r#"{"path":"/x","options":{"split_bytes":0}}"#),
        400,
        "invalid",
    );
    check(&post("/images/a/b/check", "{}"), 404, "not-found");
    check(&get("/api/v1/images/a/b/diff?with=nonsense"), 400, "invalid");
    let (status, _, _) = site.http(&post("/deployments", &"x".repeat(600 << 10)));
    assert_eq!(status, 413);
    controller.stop();
}

#[test]
fn an_image_goes_in_and_is_planned_onto_disks() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_node("node2", "ready", true);
    site.add_node("node3", "new", false);
    let source = site.clonezilla_image();
    let controller = Controller::start(&site);
    let import = site.cli(&["image", "import", &source, "lab/tiny"]);
    import.exits(0).prints("lab/tiny@1").says("from Clonezilla directory").says("(sda)");
    site.cli(&["image", "list"]).exits(0).prints("lab/tiny@1  ready").prints("sda1 ext4");
    assert_eq!(site.json(&["image", "show", "lab/tiny"])[0]["partitions"][0]["name"], "sda1");

    let deploy = |node: &str, more: &[&str]| {
        let mut arguments = vec!["deploy", "lab/tiny", "--slot", "5", "--nodes", node];
        arguments.extend(more);
        site.cli(&arguments)
    };
    let plan = deploy("node1", &["--dry-run", "--wait"]);
    plan.exits(0).prints("serial D-node1").prints("holds   nothing").prints("will be written");
    deploy("node3", &[]).exits(5).says("metalcast node approve node3");
    deploy("node1", &["--disk", "D9"]).exits(5).says("no disk has serial or WWN D9");
    deploy("node2", &["--dry-run"]).exits(0).prints("LOST").prints("ntfs");
    deploy("node2", &[]).exits(5).says("ntfs").says("--yes");
    let partitions = |more: &[&str]| {
        site.cli(&[&["deploy", "lab/tiny", "--nodes", "node2", "--partitions"], more].concat())
    };
    let plan = partitions(&["sda1:1", "--grow", "--dry-run"]);
    let plan =
        plan.exits(0).prints("lab/tiny@1, into these partitions; all else on the disk stays:");
    plan.prints("1 ext4 of sda1").prints("LOST      partition 1: ntfs").prints("grows     1 from");
    partitions(&["sda1:1"]).exits(5).says("WARNING   partition 1 has type 0x07").says("--yes");
    partitions(&["sda1:7"]).exits(5).says("it has no partition 7; it has 1");
    partitions(&["sda7:1"]).exits(3).says("has no partition sda7; it has sda1 (ext4)");
    partitions(&["sda1"]).exits(2).says("as in sda1:3");
    partitions(&["sda1:1", "--slot", "5"]).exits(2).says("--slot");
    assert_eq!(site.json(&["job", "list"]), serde_json::json!([]), "nothing has begun");

    deploy("node2", &["--yes"]).exits(0).prints("job 1");
    deploy("node1,node2", &[]).exits(5).says("node2 is busy with job 1");
    site.cli(&["image", "rm", "lab/tiny@1"]).exits(5).says("job 1");
    let job = site.json(&["job", "show", "1"]);
    assert_eq!(job["tasks"][0]["state"], "waiting", "{job}");
    assert_eq!(job["state"], "running");
    site.cli(&["job", "show", "1"]).exits(0).prints("switch it on or restart it");
    let node = site.json(&["node", "show", "node2"]);
    assert_eq!((&node["next_boot"], &node["job"]), (&"ram-image".into(), &1.into()));

    let dry = |arguments: &[&str]| site.cli(&[arguments, &["--dry-run"]].concat());
    dry(&["image", "rm", "lab/tiny@1"]).exits(5).says("job 1");
    dry(&["node", "rm", "node2"]).exits(5).says("busy with job 1");
    dry(&["job", "cancel", "1"]).exits(0).says("lab/tiny@1 to slot 5, would be stopped on node2");
    assert_eq!(site.json(&["job", "show", "1"])["state"], "running");
    site.cli(&["job", "cancel", "1"]).exits(0).says("is being stopped on node2");
    dry(&["job", "cancel", "1"]).exits(5).says("ended already");
    site.cli(&["job", "cancel", "1"]).exits(5).says("ended already");
    site.cli(&["job", "watch", "1"]).exits(1).prints("cancelled by uid 0");
    dry(&["image", "rm", "lab/tiny@1"]).exits(0).says("B) would be removed");
    dry(&["image", "rm", "lab/tiny@2"]).exits(3);
    dry(&["node", "rm", "node2"]).exits(0).says("02:00:00:00:00:32; no slots) would be forgotten");
    assert_eq!(site.json(&["node", "show", "node2"])["name"], "node2");
    let forgotten = site.json(&["node", "rm", "--dry-run", "node2"]);
    assert_eq!(forgotten[0]["forgotten"], false);
    site.cli(&["image", "rm", "lab/tiny@1"]).exits(0).says("is removed");
    site.cli(&["image", "show", "lab/tiny"]).exits(3);
    controller.stop();
}

#[test]
fn an_image_is_checked_exported_and_compared() {
    let site = Site::new();
    let source = site.clonezilla_image();
    let controller = Controller::start(&site);
    let import = |source: &str| site.cli(&["image", "import", source, "lab/tiny"]);
    import(&source).exits(0);
    site.cli(&["image", "check", "lab/tiny"]).exits(0).prints("lab/tiny@1 is sound: 6 files, ");

    let [exported, other] = ["exported", "other"].map(|name| site.path(name));
    let [exported, other] = [&exported, &other].map(|path| path.to_str().unwrap());
    let export = |more: &[&str]| site.cli(&[&["image", "export", "lab/tiny@1"], more].concat());
    export(&[exported, "--split", "1"]).exits(0).prints(exported).says("lab/tiny@1 exported: ");
    assert!(site.path("exported/sda1.ext4-ptcl-img.gz.aa").exists());
    assert!(site.path("exported/MD5SUMS").exists());
    export(&[exported]).exits(1).says("exists already");
    export(&["/proc/nowhere/x"]).exits(1).says("/proc/nowhere");
    export(&[other, "--compress", "rar"]).exits(2).says("gz, zst, none");
    export(&[other, "--split", "0"]).exits(2);
    export(&[other, "--compress", "zst", "--no-wait"]).exits(0).prints("operation ");
    import(exported).exits(0).prints("lab/tiny@2");

    let diff = site.cli(&["image", "diff", "lab/tiny@1", "lab/tiny"]);
    diff.exits(0).prints("lab/tiny@2").prints("(100 %)");
    let diff = site.json(&["image", "diff", "lab/tiny@2", "lab/tiny@1"]);
    assert_eq!(
        (&diff["a"], &diff["partitions"][0]["to_send_bytes"]),
        (&"lab/tiny@2".into(), &0.into())
    );

    let file = site.path("state/images/lab/tiny/1/sda-mbr");
    std::fs::write(file, [0; 512]).unwrap();
    site.cli(&["image", "check", "lab/tiny@1"])
        .exits(1)
        .prints("sda-mbr does not match its checksum")
        .prints("lab/tiny@1 is damaged");
    site.cli(&["image", "check", "lab/tiny"]).exits(0);
    let checked = site.cli(&["-o", "json", "image", "check", "lab/tiny@1"]);
    let checked: serde_json::Value = serde_json::from_str(&checked.exits(1).stdout).unwrap();
    let damage = &checked["state"]["done"]["checked"]["damage"];
    assert_eq!(damage.as_array().unwrap().len(), 1, "{checked}");
    for arguments in [
        &["image", "check", "lab/none"][..],
        &["image", "check", "lab/tiny@7"],
        &["image", "export", "lab/none", other],
        &["image", "diff", "lab/tiny", "lab/none"],
    ] {
        site.cli(arguments).exits(3);
    }
    site.cli(&["audit"]).exits(0).prints(&format!("export lab/tiny@1 to {exported}"));
    controller.stop();
}

#[test]
fn a_node_is_renamed() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_node("node2", "ready", false);
    site.add_slot("node1");
    let controller = Controller::start(&site);
    let rename = |old: &str, new: &str| site.cli(&["node", "rename", old, new]);
    rename("node1", "node2").exits(5).says("another node is called node2");
    rename("node1", "Node One").exits(2).says("a-z");
    site.cli(&["boot", "node1", "--slot", "5"]).exits(0);
    rename("node1", "web-1").exits(0).says("node1 is called web-1 now");
    site.cli(&["node", "show", "node1"]).exits(3);
    assert_eq!(site.json(&["node", "show", "web-1"])["job"], 1);
    site.cli(&["job", "cancel", "1"]).exits(0);
    site.cli(&["node", "rm", "--dry-run", "web-1"]).exits(0).says("slot 5 with lab/old@1");
    site.cli(&["audit"]).exits(0).prints("name web-1");
    let log = controller.log();
    for part in
        ["job=1 who=\"uid 0\" nodes=node1", "node=web-1 before=\"node1\"", "node=node1 job=1"]
    {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    controller.stop();
}

#[test]
fn waiting_ends_with_its_time_or_the_jobs_end() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_slot("node1");
    let controller = Controller::start(&site);
    let began = Instant::now();
    let wait = site.cli(&["boot", "node1", "--slot", "5", "--wait=1"]);
    wait.exits(7).says("metalcast job watch 1").prints("waiting");
    assert!(began.elapsed() < Duration::from_secs(20));
    site.cli(&["boot", "node1", "--slot", "5"]).exits(5).says("busy with job 1");
    site.cli(&["job", "cancel", "1"]).exits(0);
    // A deadline that passes is a failure with its cause.
    let timeout = site.cli(&["boot", "node1", "--slot", "5", "--timeout", "1", "--wait"]);
    timeout.exits(1).prints("did not netboot within 1 s");
    controller.stop();
}

#[test]
fn a_watch_survives_a_kill_of_the_controller() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_slot("node1");
    let controller = Controller::start(&site);
    site.cli(&["boot", "node1", "--slot", "5"]).exits(0).prints("job 1");
    let watch = site.cli_in_background(&["job", "watch", "1"]);
    std::thread::sleep(Duration::from_millis(700));
    controller.kill();
    std::thread::sleep(Duration::from_millis(1500));
    let controller = Controller::start(&site);
    let job = site.json(&["job", "show", "1"]);
    assert_eq!(job["tasks"][0]["state"], "waiting", "{job}");
    site.cli(&["job", "cancel", "1"]).exits(0);
    let watch = rig::Outcome::of(watch);
    watch.exits(1).says("trying for 60 s").says("the controller is back").prints("cancelled");
    controller.stop();
}

#[test]
fn a_second_controller_on_the_same_socket_is_refused() {
    let site = Site::new();
    let controller = Controller::start(&site);
    site.cli(&["serve", "--config", &site.config_path()])
        .exits(1)
        .says("another controller answers");
    site.cli(&["status"]).exits(0);
    controller.stop();
    assert!(!site.socket().exists(), "the socket is removed");
}

#[test]
fn ports_are_listed_with_whether_they_can_be_had() {
    let site = Site::new();
    let (config, port) = (site.config_path(), site.http_port());
    let ports =
        |arguments: &[&str]| site.cli(&[arguments, &["ports", "--config", &config]].concat());
    ports(&[]).exits(0).prints(&format!("{port}/tcp  127.0.0.1  HTTP")).prints("free");
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    ports(&[]).exits(5).prints(&format!("taken: `ss -tlpn sport = :{port}`"));
    drop(taken);
    let controller = Controller::start(&site);
    let listed = ports(&["-o", "json"]).exits(0).stdout.clone();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
    assert_eq!(listed[1]["state"], "in use, and a controller runs", "{listed}");
    controller.stop();

    let text = std::fs::read_to_string(&config).unwrap();
    let proxy = text.replace("mode = \"off\"", "mode = \"proxy\"");
    std::fs::write(&config, proxy.replace("127.0.0.1", "127.0.0.77")).unwrap();
    ports(&[]).exits(0).prints("67/udp").prints("4011/udp").prints("lo");
    std::fs::write(&config, text.replace("127.0.0.1", "192.0.2.1")).unwrap();
    ports(&[]).exits(5).prints("no interface has 192.0.2.1");
    std::fs::write(&config, text.replace(&port.to_string(), "80")).unwrap();
    let mut command = Command::new(site.public_copy_of_the_program());
    command.args(["ports", "--config", &config]).uid(65534).gid(65534);
    rig::Outcome::run(&mut command).exits(5).prints("CAP_NET_BIND_SERVICE");
}

#[test]
fn a_taken_port_is_named() {
    let site = Site::new();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.http_port())).unwrap();
    let port = site.http_port().to_string();
    site.cli(&["serve", "--config", &site.config_path()]).exits(1).says(&port).says("ss -");
}

/// Programs get a document from every command, also from one that is refused, on the stream that it
/// belongs to.
#[test]
fn programs_are_answered_in_json() {
    let site = Site::new();
    site.add_node("node1", "new", false);
    site.add_node("node2", "new", false);
    site.add_slot("node1");
    let path = site.config_path();
    assert_eq!(site.json(&["config", "check", "--config", &path])["in_order"], true);
    let controller = Controller::start(&site);
    let some = site.cli(&["-o", "json", "node", "approve", "node1,node9,node2"]);
    some.exits(6).says(r#""code":"not-found""#);
    let approved: serde_json::Value = serde_json::from_str(&some.stdout).unwrap();
    assert_eq!([&approved[0]["state"], &approved[1]["name"]], ["ready", "node2"]);
    let wait = site.json(&["boot", "node1", "--slot", "5"]);
    assert_eq!(wait["job"], 1);
    let refused = site.cli(&["-o", "json", "node", "rm", "node1"]);
    refused.exits(5);
    let problem: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(problem["code"], "node-busy");
    assert_eq!(site.json(&["job", "cancel", "1"])["stopping"], true);
    assert_eq!(site.json(&["node", "rm", "node1"])[0]["forgotten"], true);
    let audit = site.json(&["audit"]);
    assert!(audit.as_array().unwrap().iter().any(|deed| deed["what"] == "approve node1"));
    site.cli(&["audit"]).exits(0).prints("cancel job 1").prints("uid 0");
    controller.stop();
}

/// A client that hangs up leaves nothing half-done: what the store has, the controller knows.
#[test]
fn a_client_that_hangs_up_stops_nothing_half_way() {
    let site = Site::new();
    site.add_node("node1", "ready", false);
    site.add_slot("node1");
    let controller = Controller::start(&site);
    let body = r#"{"nodes":["node1"],"slot":5}"#;
    let request = format!(
        "POST /api/v1/boots HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for round in 0..40 {
        let mut stream = UnixStream::connect(site.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(150 * round));
        drop(stream);
        std::thread::sleep(Duration::from_millis(60));
        let jobs = site.json(&["job", "list"]);
        if jobs[0]["state"] == "running" {
            let job = jobs[0]["id"].to_string();
            site.cli(&["job", "cancel", &job]).exits(0);
        }
    }
    site.cli(&["boot", "node1", "--slot", "5"]).exits(0);
    controller.stop();
}

/// The socket is for its owner and group only.
#[test]
fn other_users_are_kept_out() {
    let site = Site::new();
    let controller = Controller::start(&site);
    let program = site.public_copy_of_the_program();
    let mut command = Command::new(program);
    command.arg("--socket").arg(site.socket()).arg("status").uid(65534).gid(65534);
    rig::Outcome::run(&mut command).exits(4).says("no permission");
    controller.stop();
}
