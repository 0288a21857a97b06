//! Bundles of tools: unpacked into the root directory of the RAM image when a step needs a program of
//! one first. What every deploy needs lies in the RAM image; the others come from the controller.

use super::{PackedFile, StepLog};
use anyhow::{Context, ensure};
use metalcast_initramfs::{
    bundle::{self, Bundle, File},
    packed,
};
use metalcast_shared::hash::Hash;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Sees to it that a program is there, if a bundle has it. `root` is the root directory.
pub(super) fn provide(root: &Path, program: &str, log: &StepLog<'_>) -> anyhow::Result<()> {
    let table = root.join(bundle::TABLE_PATH);
    let bytes = match fs::read(&table) {
        Ok(bytes) => bytes,
        // Not the RAM image.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", table.display())),
    };
    let all =
        bundle::read_table(&bytes).with_context(|| format!("understanding {}", table.display()))?;
    if !all.iter().any(|bundle| bundle.has(program)) {
        return Ok(());
    }
    // What is in a bundle inside, a library perhaps, is in no other one.
    for bundle in all.iter().filter(|bundle| bundle.inside || bundle.has(program)) {
        // Programs are written last: where they are, everything is.
        if !bundle.programs.iter().all(|program| at(root, program).exists()) {
            unpack(root, bundle, log)
                .with_context(|| format!("getting {program} from the tools {}", bundle.name))?;
        }
    }
    Ok(())
}

fn unpack(root: &Path, bundle: &Bundle, log: &StepLog<'_>) -> anyhow::Result<()> {
    let packed = if bundle.inside {
        let path = root.join(bundle::INSIDE_DIR).join(bundle.file_name());
        let packed = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(Hash::of(&packed) == bundle.hash, "{} is damaged", path.display());
        packed
    } else {
        let what = format!("tools {}", bundle.name);
        let file = PackedFile { what: &what, bytes: bundle.packed_bytes, hash: bundle.hash };
        let packed = log.fetch(file)?;
        log.note(format!("{what} fetched ({} kB)", packed.len() / 1000));
        packed
    };
    let content = packed::unpack(&packed)?;
    drop(packed);
    for file in bundle::files(&content).context("understanding the bundle")? {
        let path = at(root, file.path);
        write(&path, &file).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Complete, or not at all: a program of another bundle may be using a library of this name.
fn write(path: &Path, file: &File<'_>) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut partial = path.to_owned().into_os_string();
    partial.push(".new");
    fs::write(&partial, file.bytes)?;
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::set_permissions(&partial, fs::Permissions::from_mode(mode))?;
    fs::rename(&partial, path)
}

fn at(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Cancel, Context, Machine, Report};
    use metalcast_shared::event::{Step, TaskEvent};
    use std::{process::Command, sync::Mutex};

    fn bundle(inside: bool, program: &str, library: &str) -> (Bundle, Vec<u8>) {
        let busybox = fs::read("/bin/busybox").unwrap();
        let content = bundle::content(&[
            File { path: library, executable: false, bytes: b"for all" },
            File { path: program, executable: true, bytes: &busybox },
        ]);
        let packed = packed::pack(&content).unwrap();
        let bundle = Bundle {
            name: program.rsplit('/').next().unwrap().to_owned(),
            programs: vec![program.to_owned()],
            inside,
            packed_bytes: u32::try_from(packed.len()).unwrap(),
            hash: Hash::of(&packed),
        };
        (bundle, packed)
    }

    /// A root directory with one bundle inside and the table of both.
    fn root() -> (tempfile::TempDir, Vec<u8>) {
        let root = tempfile::tempdir().unwrap();
        let (near, near_file) = bundle(true, "/bin/echo", "/lib/base");
        let (far, far_file) = bundle(false, "/sbin/sleep", "/lib/own");
        fs::create_dir_all(root.path().join(bundle::INSIDE_DIR)).unwrap();
        let inside = root.path().join(bundle::INSIDE_DIR).join(near.file_name());
        fs::write(inside, near_file).unwrap();
        let table = root.path().join(bundle::TABLE_PATH);
        fs::write(table, bundle::write_table(&[near, far])).unwrap();
        (root, far_file)
    }

    /// Asks for a program; how often something was fetched, and what was noted.
    fn need(
        root: &Path,
        program: &str,
        answer: anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<(usize, Vec<String>)> {
        let notes = Mutex::new(Vec::new());
        let report = |report| {
            if let Report::Event(TaskEvent::StepNote { text, .. }) = report {
                notes.lock().unwrap().push(text);
            }
        };
        let answers = Mutex::new(vec![answer]);
        let fetch = |_: PackedFile<'_>| answers.lock().unwrap().pop().unwrap();
        let (machine, cancel) = (Machine::this(Path::new("/nonexistent")), Cancel::default());
        let context = Context {
            machine: &machine,
            report: &report,
            cancel: &cancel,
            fetch: Some(&fetch),
            keep: None,
        };
        provide(root, program, &StepLog::new(&context, Step::FixUp))?;
        let fetched = 1 - answers.lock().unwrap().len();
        Ok((fetched, notes.into_inner().unwrap()))
    }

    #[test]
    fn programs_are_there_when_they_are_needed_and_only_then_fetched() {
        let (root, far) = root();
        let at = |path: &str| root.path().join(path);
        let nothing = || Err(anyhow::anyhow!("nobody there"));
        assert_eq!(need(root.path(), "echo", nothing()).unwrap(), (0, Vec::new()));
        assert!(at("lib/base").exists() && !at("sbin/sleep").exists());
        assert_eq!(need(root.path(), "unknown", nothing()).unwrap(), (0, Vec::new()));
        let error = format!("{:#}", need(root.path(), "sleep", nothing()).unwrap_err());
        assert_eq!(error, "getting sleep from the tools sleep: nobody there");

        let (fetched, notes) = need(root.path(), "sleep", Ok(far)).unwrap();
        assert_eq!(fetched, 1);
        assert!(notes[0].starts_with("tools sleep fetched ("), "{notes:?}");
        assert_eq!(need(root.path(), "sleep", nothing()).unwrap(), (0, Vec::new()), "it is there");
        let mut chroot = Command::new("chroot");
        let out = chroot.arg(root.path()).args(["/bin/echo", "runs"]).output().unwrap();
        assert_eq!(out.stdout, b"runs\n");
    }

    #[test]
    fn what_is_inside_comes_before_what_is_fetched_and_damage_is_told() {
        let (root, far) = root();
        need(root.path(), "sleep", Ok(far.clone())).unwrap();
        assert!(root.path().join("lib/base").exists(), "its library lies in the bundle inside");
        let (root, _) = self::root();
        let inside = root.path().join(bundle::INSIDE_DIR);
        let file = inside.read_dir().unwrap().next().unwrap().unwrap().path();
        fs::write(&file, "damaged").unwrap();
        let error = format!("{:#}", need(root.path(), "sleep", Ok(far)).unwrap_err());
        assert!(error.ends_with("is damaged"), "{error}");
    }

    #[test]
    fn a_whole_system_has_its_own_programs() {
        let root = tempfile::tempdir().unwrap();
        let unasked = Err(anyhow::anyhow!("not to be asked"));
        assert_eq!(need(root.path(), "echo", unasked).unwrap().0, 0);
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }
}
