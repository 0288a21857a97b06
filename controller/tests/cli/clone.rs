//! Clones as operators meet them: what is planned, and images that are nobody's.

use crate::rig::{Controller, Outcome, Site};
use std::process::Command;

#[test]
fn a_clone_is_planned_and_waits_for_the_system_to_offer_itself() {
    let site = Site::new();
    site.add_node("node1", "ready", true);
    site.add_node("node2", "ready", false);
    site.add_node("node3", "ready", true);
    let controller = Controller::start(&site);
    let clone = |from: &str, nodes: &str, more: &[&str]| {
        let order = ["clone", "--from", from, "--nodes", nodes, "--slot", "5"];
        site.cli(&[&order[..], more].concat())
    };
    let plan = clone("node1", "node2", &["--fs", "xfs", "--label", "lab", "--dry-run"]);
    plan.exits(0)
        .prints("the running system of node1 (waits for `metalcast-agent golden` on it), into a new xfs in slot 5")
        .prints("no image of it is kept")
        .prints("serial D-node2")
        .prints("will be written");
    clone("node1", "node[1-2]", &[]).exits(2).says("node1 cannot be cloned to itself");
    clone("node9", "node2", &[]).exits(3).says("no node is called node9");
    clone("node1", "node3", &[]).exits(5).says("ntfs").says("--yes");
    clone("node1", "node2", &["--slot", "6"]).exits(2);
    assert_eq!(site.json(&["job", "list"]), serde_json::json!([]), "nothing has begun");

    clone("node1", "node2", &["--kernel-arg", "quiet"]).exits(0).prints("job 1");
    let show = site.cli(&["job", "show", "1"]);
    show.exits(0)
        .prints("clone node1 to slot 5")
        .prints("run `metalcast-agent golden` on it")
        .prints("the system of node1: nothing is written before all of it is there");
    let node = site.json(&["node", "show", "node1"]);
    assert_eq!((&node["golden"], &node["job"]), (&false.into(), &1.into()));
    clone("node1", "node3", &["--yes"]).exits(5).says("node1 is busy with job 1");
    site.cli(&["job", "cancel", "1"]).exits(0).says("is being stopped on node[1-2]");
    site.cli(&["job", "watch", "1"]).exits(1).prints("cancelled by uid 0");
    controller.stop();
}

#[test]
fn images_of_clones_are_hidden_refused_and_gone_after_a_start() {
    let site = Site::new();
    let source = site.clonezilla_image();
    let controller = Controller::start(&site);
    let refused = site.cli(&["image", "import", &source, "metalcast-clone/mine"]);
    refused.exits(2).says("come and go with the jobs that need them; choose another project");
    site.cli(&["image", "import", &source, "lab/tiny"]).exits(0);
    // What a controller leaves that is killed while a clone is under way.
    let images = site.path("state/images");
    let script = "mkdir -p metalcast-clone/job-7; cp -r lab/tiny/1 metalcast-clone/job-7/1";
    Outcome::run(Command::new("sh").args(["-ec", script]).current_dir(&images)).exits(0);
    let list = site.cli(&["image", "list"]);
    list.exits(0).prints("lab/tiny@1");
    assert!(!list.stdout.contains("metalcast-clone"), "{}", list.stdout);
    for command in [&["show"][..], &["check"], &["rm"]] {
        let arguments = [&["image"], command, &["metalcast-clone/job-7@1"]].concat();
        site.cli(&arguments).exits(3).says("there is no image metalcast-clone/job-7@1");
    }
    let export = site.path("out");
    let export = export.to_str().unwrap();
    site.cli(&["image", "export", "metalcast-clone/job-7@1", export]).exits(3);
    let deploy = ["deploy", "metalcast-clone/job-7", "--slot", "5", "--nodes", "node1"];
    site.cli(&deploy).exits(2).says("come and go with the jobs");
    controller.kill();
    let controller = Controller::start(&site);
    assert!(!images.join("metalcast-clone").exists(), "nobody needs it");
    site.cli(&["image", "list"]).exits(0).prints("lab/tiny@1");
    controller.stop();
}
