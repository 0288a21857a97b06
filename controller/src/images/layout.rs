//! Where things are in the store's directory, and the names of what is being made or removed there.

use super::StoreError;
use metalcast_shared::id::{ImageName, Revision};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The signed manifest of a revision.
pub(super) const MANIFEST: &str = "metalcast.manifest";
/// The pages of all its partitions.
pub(super) const PAGES: &str = "metalcast.pages";

/// Begins the names of directories that no revision is in (yet, or any more). What follows are 32
/// hexadecimal digits; nothing else in the store is ever deleted unasked.
const TEMPORARY: [&str; 2] = [".import-", ".removed-"];

/// Ends the name of the marker that keeps the number of a removed revision taken.
const REMOVED: &str = ".removed";

/// Images hold other people's secrets (`/etc/shadow`): only the controller reads them.
const DIR_MODE: u32 = 0o700;

/// The store's directory.
pub(super) struct Layout {
    root: PathBuf,
}

/// Which numbers of an image are taken.
#[derive(Default)]
pub(super) struct Numbers {
    /// Revisions that have a manifest, whatever is in it.
    pub(super) present: Vec<u32>,
    /// The highest number ever given out, 0 for none.
    pub(super) highest: u32,
}

/// A directory that is deleted when dropped, unless it was renamed into place.
pub(super) struct Temporary {
    path: PathBuf,
    /// The open directory, locked: other processes see that it is in use.
    _lock: File,
    is_kept: bool,
}

impl Layout {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        make_dir(dir)?;
        let root = fs::canonicalize(dir).map_err(StoreError::io("opening", dir))?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn revision(&self, revision: &Revision) -> PathBuf {
        self.image(&revision.image).join(revision.number.to_string())
    }

    fn image(&self, name: &ImageName) -> PathBuf {
        self.root.join(name.project()).join(name.name())
    }

    /// A new directory for an import.
    pub(super) fn temporary(&self) -> Result<Temporary, StoreError> {
        let path = self.temporary_name(TEMPORARY[0]);
        DirBuilder::new()
            .mode(DIR_MODE)
            .create(&path)
            .map_err(StoreError::io("making the directory", &path))?;
        let lock = File::open(&path).map_err(StoreError::io("opening", &path))?;
        lock.lock().map_err(StoreError::io("locking", &path))?;
        Ok(Temporary { path, _lock: lock, is_kept: false })
    }

    /// Renames a finished import into its place, durably.
    pub(super) fn publish(
        &self,
        mut temporary: Temporary,
        revision: &Revision,
    ) -> Result<(), StoreError> {
        let place = self.revision(revision);
        let parent = self.image(&revision.image);
        make_dir(&parent)?;
        if fs::symlink_metadata(&place).is_ok() {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(StoreError::io("making the directory", place)(source));
        }
        fs::rename(&temporary.path, &place).map_err(StoreError::io("renaming into", &place))?;
        temporary.is_kept = true;
        sync_dir(&parent)?;
        parent.parent().map_or(Ok(()), sync_dir)?;
        sync_dir(&self.root)
    }

    /// Takes a revision out of the store, then deletes it: a crash between the two leaves a
    /// leftover, not half a revision.
    pub(super) fn remove(&self, revision: &Revision) -> Result<(), StoreError> {
        let place = self.revision(revision);
        if !is_dir(&place) {
            return Err(StoreError::NotFound(revision.clone()));
        }
        let parent = self.image(&revision.image);
        let marker = parent.join(format!("{}{REMOVED}", revision.number));
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(StoreError::io("writing", &marker))?;
        let removed = self.temporary_name(TEMPORARY[1]);
        fs::rename(&place, &removed).map_err(StoreError::io("renaming", &place))?;
        sync_dir(&parent)?;
        fs::remove_dir_all(&removed).map_err(StoreError::io("deleting", removed))
    }

    /// Deletes what killed imports and removals left.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        for name in entries(&self.root)? {
            let path = self.root.join(&name);
            if !is_temporary_name(&name) || !is_dir(&path) {
                continue;
            }
            let dir = File::open(&path).map_err(StoreError::io("opening", &path))?;
            if dir.try_lock().is_ok() {
                fs::remove_dir_all(&path).map_err(StoreError::io("deleting", &path))?;
            }
        }
        Ok(())
    }

    /// The numbers of an image.
    pub(super) fn numbers(&self, name: &ImageName) -> Result<Numbers, StoreError> {
        let dir = self.image(name);
        let mut numbers = Numbers::default();
        if !is_dir(&dir) {
            return Ok(numbers);
        }
        for entry in entries(&dir)? {
            let number = entry.strip_suffix(REMOVED).unwrap_or(&entry);
            let Ok(parsed) = number.parse::<u32>() else { continue };
            if parsed == 0 || parsed.to_string() != number {
                continue;
            }
            numbers.highest = numbers.highest.max(parsed);
            if number == entry && dir.join(&entry).join(MANIFEST).exists() {
                numbers.present.push(parsed);
            }
        }
        Ok(numbers)
    }

    /// All revisions that have a manifest, in order.
    pub(super) fn revisions(&self) -> Result<Vec<Revision>, StoreError> {
        let mut revisions = Vec::new();
        for project in entries(&self.root)? {
            let path = self.root.join(&project);
            if !is_dir(&path) {
                continue;
            }
            for name in entries(&path)? {
                let Ok(image) = format!("{project}/{name}").parse::<ImageName>() else { continue };
                let numbers = self.numbers(&image)?.present.into_iter();
                revisions.extend(numbers.map(|number| Revision { image: image.clone(), number }));
            }
        }
        revisions.sort();
        Ok(revisions)
    }

    fn temporary_name(&self, start: &str) -> PathBuf {
        self.root.join(format!("{start}{}", Uuid::new_v4().simple()))
    }
}

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted when the store is opened next.
        if !self.is_kept
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "leftover of an import stays");
        }
    }
}

/// Makes what was written in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(StoreError::io("flushing", path))
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(StoreError::io("making the directory", path))
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn is_temporary_name(name: &str) -> bool {
    TEMPORARY.iter().filter_map(|start| name.strip_prefix(start)).any(|random| {
        random.len() == 32 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Names in a directory; those that are not UTF-8 are not ours.
fn entries(path: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    };
    read().map_err(StoreError::io("listing", path))
}
