//! The image's directory while it is made: under another name, deleted unless it is completed.

use anyhow::{Context, ensure};
use metalcast_formats::stream::{Algorithm, FileSum, Summed};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Images hold other people's secrets (`/etc/shadow`).
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Collected before it is written.
const BUFFER_BYTES: usize = 1 << 20;

/// The checksums that Clonezilla is given.
const SUMS: Algorithm = Algorithm::Blake2b;

/// Ends the name of a directory that is not complete.
const UNFINISHED: &str = ".unfinished";

/// The directory.
pub(super) struct Directory {
    target: PathBuf,
    path: PathBuf,
    sums: Vec<FileSum>,
    /// The open directory, locked: another run sees that it is in use.
    _lock: File,
    is_complete: bool,
}

/// A file of it.
pub(super) struct Output {
    name: String,
    file: Summed<BufWriter<File>>,
}

impl Directory {
    /// Begins one that will be called `target`. What a killed run left of it is deleted.
    pub(super) fn create(target: &Path) -> anyhow::Result<Self> {
        ensure!(
            fs::symlink_metadata(target).is_err(),
            "{} exists; an image is not written over another",
            target.display()
        );
        let name = target.file_name().context("the image's directory has no name")?;
        let mut unfinished = name.to_owned();
        unfinished.push(UNFINISHED);
        let path = target.with_file_name(unfinished);
        remove_leftover(&path)?;
        let make = || -> io::Result<File> {
            DirBuilder::new().mode(DIR_MODE).create(&path)?;
            let lock = File::open(&path)?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = make().with_context(|| format!("making {}", path.display()))?;
        Ok(Self {
            target: target.to_owned(),
            path,
            sums: Vec::new(),
            _lock: lock,
            is_complete: false,
        })
    }

    /// Begins a file.
    pub(super) fn create_file(&self, name: &str) -> anyhow::Result<Output> {
        let path = self.path.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.with_context(|| format!("making {}", path.display()))?;
        let file = Summed::new(BufWriter::with_capacity(BUFFER_BYTES, file), &[SUMS]);
        Ok(Output { name: name.to_owned(), file })
    }

    /// Makes a file durable.
    pub(super) fn finish(&mut self, output: Output) -> anyhow::Result<()> {
        let (mut file, sum) = output.file.finish(output.name);
        file.flush()
            .and_then(|()| file.get_ref().sync_all())
            .with_context(|| format!("writing {}", self.path.join(&sum.name).display()))?;
        self.sums.push(sum);
        Ok(())
    }

    /// Writes a whole file.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut output = self.create_file(name)?;
        output.write_all(content).with_context(|| format!("writing {name}"))?;
        self.finish(output)
    }

    /// Writes the list of checksums of all files so far.
    pub(super) fn write_sums(&mut self) -> anyhow::Result<()> {
        let list = FileSum::list(&self.sums, SUMS);
        self.file(SUMS.file_name(), list.as_bytes())
    }

    /// Gives the directory its name.
    pub(super) fn publish(mut self) -> anyhow::Result<()> {
        let parent = match self.target.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let publish = || -> io::Result<()> {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &self.target)?;
            File::open(&parent)?.sync_all()
        };
        publish().with_context(|| format!("completing {}", self.target.display()))?;
        self.is_complete = true;
        Ok(())
    }
}

/// Deletes an unfinished image, unless someone is at work on it.
fn remove_leftover(path: &Path) -> anyhow::Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    let dir = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    ensure!(dir.try_lock().is_ok(), "another capture is writing {}", path.display());
    tracing::info!("deleting {}, which an interrupted capture left", path.display());
    fs::remove_dir_all(path).with_context(|| format!("deleting {}", path.display()))
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_complete
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!("{} stays: {error}", self.path.display());
        }
    }
}

impl Output {
    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
