//! Where things are in the store's directory, and the names of what is being made or removed there.

use super::StoreError;
use metalcast_shared::id::{ImageName, Revision};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The signed manifest of a revision.
pub(super) const MANIFEST: &str = "metalcast.manifest";
/// The pages of all its partitions.
pub(super) const PAGES: &str = "metalcast.pages";

/// Begin the names of directories that no revision is in (yet, or any more, or that remember an
/// export). What follows are 32 hexadecimal digits; nothing else in the store is ever deleted unasked.
const IMPORT: &str = ".import-";
const REMOVED_DIR: &str = ".removed-";
const EXPORT: &str = ".export-";

/// Begins the name of an export under way, beside the place where it will be; the same digits follow.
const EXPORT_DIR: &str = ".metalcast-export-";

/// In the directory that remembers an export: where that is being made.
const EXPORT_PATH: &str = "path";

/// Ends the name of the marker that keeps the number of a removed revision taken.
const REMOVED: &str = ".removed";

/// Images hold other people's secrets (`/etc/shadow`): only the controller reads them.
const DIR_MODE: u32 = 0o700;

/// The store's directory.
#[derive(Clone)]
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
    /// The open directory, locked where others are to see that it is in use.
    lock: Option<File>,
    is_kept: bool,
}

/// A directory outside of the store that is deleted when dropped, unless it was renamed into place.
pub(super) struct Export {
    dir: Temporary,
    place: PathBuf,
    /// Dropped after it.
    _note: Temporary,
}

impl Export {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Renames it into its place, durably.
    pub(super) fn publish(mut self) -> Result<(), StoreError> {
        let place = &self.place;
        sync_dir(&self.dir.path)?;
        // An empty directory would be replaced.
        if fs::symlink_metadata(place).is_ok() {
            let source = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(StoreError::io("making the directory", place)(source));
        }
        fs::rename(&self.dir.path, place).map_err(StoreError::io("renaming into", place))?;
        self.dir.is_kept = true;
        place.parent().map_or(Ok(()), sync_dir)
    }
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
        Temporary::locked(self.temporary_name(IMPORT))
    }

    /// A new directory beside `place`, to be renamed to it. A crash leaves a note of it in the store.
    pub(super) fn export(&self, place: PathBuf, parent: &Path) -> Result<Export, StoreError> {
        let random = Uuid::new_v4().simple();
        let note = Temporary::locked(self.root.join(format!("{EXPORT}{random}")))?;
        let path = parent.join(format!("{EXPORT_DIR}{random}"));
        let file = note.path.join(EXPORT_PATH);
        File::create_new(&file)
            .and_then(|mut file| {
                file.write_all(path.as_os_str().as_bytes())?;
                file.sync_all()
            })
            .map_err(StoreError::io("writing", file))?;
        sync_dir(&note.path)?;
        Ok(Export { dir: Temporary::create(path)?, place, _note: note })
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
        let removed = self.temporary_name(REMOVED_DIR);
        fs::rename(&place, &removed).map_err(StoreError::io("renaming", &place))?;
        sync_dir(&parent)?;
        fs::remove_dir_all(&removed).map_err(StoreError::io("deleting", removed))
    }

    /// Forgets an image without revisions: its numbers are given out again.
    pub(super) fn forget(&self, image: &ImageName) -> Result<(), StoreError> {
        let dir = self.image(image);
        let numbers = self.numbers(image)?;
        if !is_dir(&dir) || !numbers.present.is_empty() {
            return Ok(());
        }
        fs::remove_dir_all(&dir).map_err(StoreError::io("deleting", &dir))?;
        // Others of its project may be there.
        let _ = dir.parent().map(fs::remove_dir);
        sync_dir(&self.root)
    }

    /// Deletes what killed imports, exports and removals left.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        for name in entries(&self.root)? {
            let path = self.root.join(&name);
            if !is_temporary_name(&name) || !is_dir(&path) {
                continue;
            }
            let dir = File::open(&path).map_err(StoreError::io("opening", &path))?;
            if dir.try_lock().is_ok() {
                if let Some(random) = name.strip_prefix(EXPORT)
                    && let Err(error) = remove_export(&path, random)
                {
                    tracing::warn!(%error, "leftover of an export stays for now");
                    continue;
                }
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

    /// Names of directories that may be projects.
    pub(super) fn projects(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut names: BTreeSet<String> = entries(&self.root)?.into_iter().collect();
        names.retain(|name| {
            format!("{name}/x").parse::<ImageName>().is_ok() && is_dir(&self.root.join(name))
        });
        Ok(names)
    }

    /// Bytes of all files of a project's revisions.
    pub(super) fn project_bytes(&self, project: &str) -> Result<u64, StoreError> {
        let path = self.root.join(project);
        let mut bytes = 0_u64;
        for name in subdirectories(&path)? {
            for number in subdirectories(&name)? {
                for file in entries(&number)? {
                    // One that is being removed is gone.
                    let metadata = fs::symlink_metadata(number.join(file));
                    bytes = bytes.saturating_add(metadata.map_or(0, |metadata| metadata.len()));
                }
            }
        }
        Ok(bytes)
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
    fn create(path: PathBuf) -> Result<Self, StoreError> {
        DirBuilder::new()
            .mode(DIR_MODE)
            .create(&path)
            .map_err(StoreError::io("making the directory", &path))?;
        Ok(Self { path, lock: None, is_kept: false })
    }

    fn locked(path: PathBuf) -> Result<Self, StoreError> {
        let mut dir = Self::create(path)?;
        let lock = File::open(&dir.path).map_err(StoreError::io("opening", &dir.path))?;
        lock.lock().map_err(StoreError::io("locking", &dir.path))?;
        dir.lock = Some(lock);
        Ok(dir)
    }

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
            tracing::warn!(path = %self.path.display(), %error, "leftover stays for now");
        }
    }
}

/// Deletes the export that a directory in the store remembers.
fn remove_export(note: &Path, random: &str) -> Result<(), StoreError> {
    let file = note.join(EXPORT_PATH);
    let path = match fs::read(&file) {
        Ok(path) => PathBuf::from(OsString::from_vec(path)),
        // It had not begun.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("reading", file)(error)),
    };
    let is_ours = path.file_name().is_some_and(|name| *name == *format!("{EXPORT_DIR}{random}"));
    if !is_ours {
        return Ok(());
    }
    match fs::remove_dir_all(&path) {
        // It was finished, or had not begun; unless the disk is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match path.parent().is_some_and(is_dir) {
                true => Ok(()),
                false => Err(StoreError::io("deleting", path)(error)),
            }
        }
        done => done.map_err(StoreError::io("deleting", path)),
    }
}

/// Makes what was written in a directory durable, where its filesystem can do that.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|dir| dir.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done.map_err(StoreError::io("flushing", path)),
    }
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
    let starts = [IMPORT, REMOVED_DIR, EXPORT];
    starts.iter().filter_map(|start| name.strip_prefix(start)).any(|random| {
        random.len() == 32 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Directories in a directory; none if there is no such one, or not any more.
fn subdirectories(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !is_dir(path) {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = entries(path)?.iter().map(|name| path.join(name)).collect();
    paths.retain(|path| is_dir(path));
    Ok(paths)
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
