//! Programs from unpacked packages, with the shared libraries they need.

use crate::build::BuildError;
use crate::{elf, rootdir};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where Debian's dynamic loader looks without a cache file, in its order. Programs that name other
/// places (`DT_RUNPATH`) do not occur among the tools of a RAM image.
const LIBRARY_DIRS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// All files that `programs` (absolute paths in any of the roots) need to run, by the path that the
/// loader looks for, programs included.
pub(crate) fn collect(
    roots: &[PathBuf],
    programs: &[String],
) -> Result<BTreeMap<String, Vec<u8>>, BuildError> {
    let mut files = BTreeMap::new();
    let mut todo: Vec<(String, Vec<u8>)> = Vec::new();
    for path in programs {
        let bytes = find(roots, path)?.ok_or_else(|| BuildError::Missing(path.clone()))?;
        todo.push((path.clone(), bytes));
    }
    while let Some((path, bytes)) = todo.pop() {
        if files.contains_key(&path) {
            continue;
        }
        for (path, bytes) in needed_by(roots, &path, &bytes)? {
            if !files.contains_key(&path) {
                todo.push((path, bytes));
            }
        }
        files.insert(path, bytes);
    }
    Ok(files)
}

/// Contents of `path` in the first root that has it.
pub(crate) fn find(roots: &[PathBuf], path: &str) -> Result<Option<Vec<u8>>, BuildError> {
    for root in roots {
        if let Ok(real) = rootdir::resolve(root, path) {
            return read(&real).map(Some);
        }
    }
    Ok(None)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

fn needed_by(
    roots: &[PathBuf],
    path: &str,
    bytes: &[u8],
) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
    if !elf::is_elf(bytes) {
        return Ok(Vec::new());
    }
    let needs = elf::needs(bytes)
        .map_err(|source| BuildError::Program { path: path.to_owned(), source })?;
    let mut found = Vec::new();
    let missing = |library: String| BuildError::Library { library, wanted_by: path.to_owned() };
    if let Some(interpreter) = needs.interpreter {
        let bytes = find(roots, &interpreter)?.ok_or_else(|| missing(interpreter.clone()))?;
        found.push((interpreter, bytes));
    }
    for library in needs.libraries {
        let mut places = LIBRARY_DIRS.iter().map(|dir| format!("{dir}/{library}"));
        let place = places.find_map(|place| match find(roots, &place) {
            Ok(Some(bytes)) => Some(Ok((place, bytes))),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        });
        found.push(place.ok_or_else(|| missing(library))??);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::process::Command;

    /// A program of this machine, copied out with what was found for it, runs in a chroot.
    #[test]
    fn a_collected_program_runs_in_a_root_of_its_own() {
        let files = collect(&[PathBuf::from("/")], &["/bin/ls".to_owned()]).unwrap();
        let names: BTreeSet<&str> =
            files.keys().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert!(names.contains("libc.so.6"), "{names:?}");
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in &files {
            use std::os::unix::fs::PermissionsExt;
            let place = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(&place, bytes).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let out = Command::new("chroot").arg(root.path()).args(["/bin/ls", "/"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(String::from_utf8_lossy(&out.stdout).contains("bin"));
    }

    #[test]
    fn what_is_missing_is_named_with_who_wants_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        std::fs::copy("/bin/ls", root.path().join("bin/ls")).unwrap();
        let roots = [root.path().to_owned()];
        let error = collect(&roots, &["/bin/ls".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("wanted by /bin/ls, is in none of the packages"), "{error}");
        let error = collect(&roots, &["/bin/no".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "/bin/no is in none of the packages");
    }
}
