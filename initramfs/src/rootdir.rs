//! Paths inside an unpacked package root, with symbolic links followed as if it were `/`.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Most links on the way to one file, as in the kernel (MAXSYMLINKS).
const LINK_LIMIT: usize = 40;

/// The real place of `path` (as the target sees it) below `root`. `..` never leads out of it.
pub(crate) fn resolve(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut done = PathBuf::new();
    let mut todo: Vec<String> = parts(Path::new(path));
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let full = root.join(&next);
        if full.symlink_metadata()?.is_symlink() {
            links += 1;
            if links > LINK_LIMIT {
                return Err(io::Error::from_raw_os_error(40)); // ELOOP
            }
            let target = full.read_link()?;
            if target.is_absolute() {
                done = PathBuf::new();
            }
            todo.extend(parts(&target));
        } else {
            done = next;
        }
    }
    Ok(root.join(done))
}

/// The named parts, last first.
fn parts(path: &Path) -> Vec<String> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::ParentDir => Some("..".to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("usr/lib")).unwrap();
        std::fs::write(at("usr/lib/libx.so.1.2"), "").unwrap();
        symlink("libx.so.1.2", at("usr/lib/libx.so.1")).unwrap();
        symlink("usr/lib", at("lib")).unwrap();
        symlink("/lib/libx.so.1", at("absolute")).unwrap();
        symlink("../../../../../../lib/libx.so.1", at("up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for path in ["/lib/libx.so.1", "absolute", "/up", "usr/../lib/./libx.so.1.2"] {
            assert_eq!(resolve(root.path(), path).unwrap(), at("usr/lib/libx.so.1.2"), "{path}");
        }
        assert!(resolve(root.path(), "loop").is_err());
        assert!(resolve(root.path(), "/etc/passwd").is_err());
    }
}
