//! `project-files` and `project-script`: what the image's project adds to every system of it.

use super::StepLog;
use crate::{disk::Root, task::PackedFile};
use anyhow::{Context, ensure};
use metalcast_initramfs::packed;
use metalcast_shared::{
    fix_up::{Adaptation, FixUpStep},
    post_install::{Content, Kind, MAX_BYTES, MAX_PATH_BYTES, SCRIPT_SECONDS},
};
use metalcast_sys::{
    child::{self, ChildError, Limits},
    confine::confine,
};
use std::{path::Path, process::Command, time::Duration};

/// Where the script lies while it runs.
const SCRIPT: &str = ".metalcast-post-install";

/// What the script may print; all of it goes into the node's log.
const LIMITS: Limits = Limits { time: Duration::from_secs(SCRIPT_SECONDS), output_bytes: 64 << 10 };

/// The search path of a login as root.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gets what is added and not left out; empty if there is nothing.
pub(super) fn fetch(adaptation: &Adaptation, log: &StepLog<'_>) -> anyhow::Result<Vec<u8>> {
    let is_wanted = |step| !adaptation.without.contains(&step);
    let Some(added) = &adaptation.post_install else { return Ok(Vec::new()) };
    let files = added.entries > 0 && is_wanted(FixUpStep::ProjectFiles);
    let script = added.has_script && is_wanted(FixUpStep::ProjectScript);
    if !files && !script {
        return Ok(Vec::new());
    }
    let what = "what the project adds";
    let limit = 2 * MAX_BYTES;
    let length = added.packed_bytes as usize;
    ensure!(length <= limit, "{what} has {length} bytes, more than {limit}");
    let file = PackedFile { what, bytes: added.packed_bytes, hash: added.hash };
    let packed = log.fetch(file).context("fetching what the project adds")?;
    packed::unpack(&packed).context("unpacking what the project adds")
}

/// What was fetched, as it is to be read.
pub(super) fn content(bytes: &[u8]) -> anyhow::Result<Content<'_>> {
    match bytes {
        [] => Ok(Content::default()),
        bytes => Content::of(bytes).context("understanding what the project adds"),
    }
}

/// Writes the files, links and directories. All are root's.
pub(super) fn files(root: &Root, added: &Content<'_>) -> anyhow::Result<Vec<String>> {
    let mut counts = [0_u32; 3];
    for entry in &added.entries {
        let (path, mode) = (entry.path, u32::from(entry.mode) & 0o7777);
        ensure!(path.len() <= MAX_PATH_BYTES, "a path of {} bytes", path.len());
        match entry.kind {
            Kind::Directory => root.make_dir(path, mode)?,
            Kind::File(bytes) => root.create(path, bytes, mode)?,
            Kind::Link(target) => root.link(path, target)?,
        }
        counts[match entry.kind {
            Kind::File(_) => 0,
            Kind::Link(_) => 1,
            Kind::Directory => 2,
        }] += 1;
    }
    let [files, links, directories] = counts;
    match added.entries.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(vec![format!("{files} files, {links} links, {directories} directories")]),
    }
}

/// Runs the script in the system. What it prints goes into the log, the last line into the note.
pub(super) fn script(
    root: &Root,
    added: &Content<'_>,
    hostname: &str,
    log: &StepLog<'_>,
) -> anyhow::Result<Vec<String>> {
    let Some(text) = added.script else { return Ok(Vec::new()) };
    root.create(SCRIPT, text, 0o700)?;
    let outcome = start(root.path(), hostname, log);
    root.remove(SCRIPT)?;
    let output = match (log.check_cancel(), outcome) {
        (Err(cancelled), Err(ChildError::Stopped { .. })) => return Err(cancelled),
        (_, outcome) => outcome.context("running the script of the project")?,
    };
    let mut last = None;
    for stream in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(stream).lines().filter(|line| !line.trim().is_empty()) {
            tracing::info!("project-script: {line}");
            last = Some(line.to_owned());
        }
    }
    let said = last.map_or_else(String::new, |line| format!("; it said last: {line}"));
    Ok(vec![format!("done in {:.1} s{said}", output.elapsed.as_secs_f32())])
}

fn start(root: &Path, hostname: &str, log: &StepLog<'_>) -> Result<child::Output, ChildError> {
    let mut command = Command::new(format!("/{SCRIPT}"));
    command.env_clear().env("PATH", SEARCH_PATH).env("HOME", "/root").env("LC_ALL", "C");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("METALCAST_HOSTNAME", hostname);
    confine(&mut command, root)
        .map_err(|source| ChildError::Start { command: format!("/{SCRIPT}"), source })?;
    child::run_unless(command, &[], LIMITS, &|| log.check_cancel().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Cancel, Context, Machine};
    use metalcast_shared::post_install::PostInstall;
    use metalcast_shared::{event::Step, hash::Hash, post_install::Entry};
    use std::{fs, os::unix::fs::PermissionsExt};

    fn with_log<T>(
        answer: anyhow::Result<Vec<u8>>,
        cancel: &Cancel,
        run: impl FnOnce(&StepLog<'_>) -> T,
    ) -> T {
        let answer = std::sync::Mutex::new(Some(answer));
        let fetch = |_: PackedFile<'_>| answer.lock().unwrap().take().unwrap();
        let machine = Machine::this(Path::new("/nonexistent"));
        let context =
            Context { machine: &machine, report: &|_| (), cancel, fetch: Some(&fetch), keep: None };
        run(&StepLog::new(&context, Step::FixUp))
    }

    /// A system with nothing but a shell.
    fn system() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", "dev", "proc", "etc"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::copy("/bin/busybox", dir.path().join("bin/sh")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    fn run_script(text: &str, cancel: &Cancel) -> (tempfile::TempDir, anyhow::Result<Vec<String>>) {
        let (dir, root) = system();
        let added = Content { entries: Vec::new(), script: Some(text.as_bytes()) };
        let nothing = Err(anyhow::anyhow!("not asked"));
        let told = with_log(nothing, cancel, |log| script(&root, &added, "node7", log));
        assert!(!dir.path().join(SCRIPT).exists(), "the script is left");
        (dir, told)
    }

    #[test]
    fn files_get_their_modes_and_directories_that_are_there_stay() {
        let (dir, root) = system();
        fs::set_permissions(dir.path().join("etc"), PermissionsExt::from_mode(0o711)).unwrap();
        fs::write(dir.path().join("etc/motd"), "old").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("conf")).unwrap();
        let entry = |path, mode, kind| Entry { path, mode, kind };
        let entries = vec![
            entry("conf", 0o700, Kind::Directory),
            entry("conf/motd", 0o640, Kind::File(b"new")),
            entry("etc", 0o700, Kind::Directory),
            entry("opt", 0o2770, Kind::Directory),
            entry("opt/deep/tool", 0o4755, Kind::File(b"#!/bin/sh\n")),
            entry("opt/link", 0o777, Kind::Link("deep/tool")),
        ];
        let told = files(&root, &Content { entries, script: None }).unwrap();
        assert_eq!(told, ["2 files, 1 links, 3 directories"]);
        let mode = |path: &str| {
            let meta = fs::symlink_metadata(dir.path().join(path)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        assert_eq!(fs::read_to_string(dir.path().join("etc/motd")).unwrap(), "new");
        for (path, expected) in
            [("etc", 0o711), ("etc/motd", 0o640), ("opt", 0o2770), ("opt/deep/tool", 0o4755)]
        {
            assert_eq!(mode(path), expected, "{path}");
        }
        assert_eq!(fs::read_link(dir.path().join("opt/link")).unwrap(), Path::new("deep/tool"));
        assert!(files(&root, &Content::default()).unwrap().is_empty());
    }

    #[test]
    fn the_script_runs_in_the_system_and_its_failure_is_told() {
        let text = "#!/bin/sh\necho first\necho \"$METALCAST_HOSTNAME\" >/etc/name\necho last\n";
        let (dir, told) = run_script(text, &Cancel::default());
        assert!(told.unwrap()[0].ends_with("it said last: last"));
        assert_eq!(fs::read_to_string(dir.path().join("etc/name")).unwrap(), "node7\n");
        let (_dir, told) = run_script("#!/bin/sh\necho no disk >&2\nexit 4", &Cancel::default());
        let error = format!("{:#}", told.unwrap_err());
        assert!(error.contains("exit status: 4: no disk"), "{error}");
        let (_dir, told) = run_script("#!/bin/absent\n", &Cancel::default());
        let error = format!("{:#}", told.unwrap_err());
        assert!(error.contains("running the script of the project"), "{error}");
    }

    #[test]
    fn a_script_that_does_not_end_is_stopped_with_the_task() {
        let cancel = Cancel::default();
        cancel.cancel("enough");
        let (_dir, told) = run_script("#!/bin/sh\nwhile true; do :; done", &cancel);
        assert_eq!(told.unwrap_err().to_string(), "cancelled: enough");
    }

    #[test]
    fn only_what_is_wanted_is_fetched() {
        let bytes = Content { entries: Vec::new(), script: Some(b"#!/bin/sh\n") }.to_bytes();
        let packed = packed::pack(&bytes).unwrap();
        let mut adaptation = Adaptation::default();
        let refused = || Err(anyhow::anyhow!("not to be asked"));
        let get = |adaptation: &Adaptation, answer| {
            with_log(answer, &Cancel::default(), |log| fetch(adaptation, log))
        };
        assert!(get(&adaptation, refused()).unwrap().is_empty());
        adaptation.post_install = Some(PostInstall {
            hash: Hash::of(&packed),
            packed_bytes: packed.len() as u32,
            entries: 0,
            has_script: true,
        });
        assert_eq!(get(&adaptation, Ok(packed.clone())).unwrap(), bytes);
        assert_eq!(content(&bytes).unwrap().script, Some(&b"#!/bin/sh\n"[..]));
        assert!(get(&adaptation, Ok(b"damaged".to_vec())).is_err());
        adaptation.without = vec![FixUpStep::ProjectScript];
        assert!(get(&adaptation, refused()).unwrap().is_empty());
        adaptation.without.clear();
        if let Some(added) = &mut adaptation.post_install {
            added.packed_bytes = u32::MAX;
        }
        assert!(get(&adaptation, refused()).unwrap_err().to_string().contains("more than"));
    }
}
