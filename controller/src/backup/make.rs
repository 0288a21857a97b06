//! Making a backup: the database is copied as it is at one moment, then everything is hashed and put
//! into a tar file that has no name any more when it is handed out.

use super::{CONFIGURATION, Contents, DATABASE, FORMAT, LEASES, LIST, MEMBERS, Member};
use crate::{config::Config, store::Store};
use anyhow::Context;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};
use tokio::sync::Mutex;

/// Where a backup is made, in `state_dir`.
const WORK_DIR: &str = "backup.tmp";

/// What backups are made of.
pub struct Source {
    config: Config,
    store: Store,
    /// One at a time.
    turn: Mutex<()>,
}

impl Source {
    /// Backups of the controller with this configuration and store.
    pub fn new(config: Config, store: Store) -> Self {
        Self { config, store, turn: Mutex::default() }
    }

    /// Makes a backup of what is there now. The controller goes on meanwhile.
    ///
    /// # Errors
    /// When something cannot be read, or `state_dir` has no room for twice the database.
    pub async fn make(&self, now_unix: i64) -> anyhow::Result<File> {
        let _turn = self.turn.lock().await;
        let work = self.config.state_dir.join(WORK_DIR);
        // Left by a controller that was killed in here.
        remove(&work)?;
        let made = self.make_in(&work, now_unix).await.with_context(|| {
            format!("making a backup in {} (it takes twice the database's room)", work.display())
        });
        // An open file stays readable.
        remove(&work)?;
        made
    }

    async fn make_in(&self, work: &Path, now_unix: i64) -> anyhow::Result<File> {
        fs::DirBuilder::new().mode(0o700).create(work).context("making the directory")?;
        let database = work.join(DATABASE);
        self.store.copy_to(&database).await?;
        let (config, path) = (self.config.clone(), work.join("backup.tar"));
        let pack = move || pack(&config, &database, &path, now_unix);
        tokio::task::spawn_blocking(pack).await.context("packing it")?
    }
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn pack(config: &Config, database: &Path, to: &Path, now_unix: i64) -> anyhow::Result<File> {
    let mut files = Vec::new();
    for (name, mode) in MEMBERS {
        let path = match name {
            CONFIGURATION => {
                // A file like all others.
                let path = to.with_file_name(CONFIGURATION);
                fs::write(&path, config.to_string()).context("writing the configuration")?;
                path
            }
            DATABASE => database.to_owned(),
            name => config.state_dir.join(name),
        };
        match File::open(&path) {
            Ok(file) => files.push(Packed::new(name, mode, file)?),
            // No address was lent yet.
            Err(error) if error.kind() == ErrorKind::NotFound && name == LEASES => {}
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }
    let contents = Contents {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_unix: now_unix,
        images_dir: config.images_dir(),
        files: files.iter().map(|file| file.member.clone()).collect(),
    };
    let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to);
    let file = open.context("opening the file")?;
    write(&file, &contents, files).context("writing the file")?;
    (&file).rewind().context("reading the file")?;
    Ok(file)
}

/// A file to be packed, as long as it was when it was opened: the leases may grow.
struct Packed {
    member: Member,
    mode: u32,
    file: File,
}

impl Packed {
    fn new(name: &str, mode: u32, mut file: File) -> anyhow::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut hash = || {
            let bytes = io::copy(&mut file, &mut hasher)?;
            file.rewind().map(|()| bytes)
        };
        let bytes = hash().with_context(|| format!("reading {name}"))?;
        let blake3 = hasher.finalize().to_string();
        Ok(Self { member: Member { name: name.to_owned(), bytes, blake3 }, mode, file })
    }
}

fn write(to: &File, contents: &Contents, files: Vec<Packed>) -> io::Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(to));
    let mut append = |name: &str, mode: u32, bytes: u64, data: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(mode);
        header.set_mtime(contents.created_unix.unsigned_abs());
        archive.append_data(&mut header, name, data)
    };
    let list = serde_json::to_vec_pretty(contents).map_err(io::Error::other)?;
    append(LIST, 0o600, list.len() as u64, &mut &list[..])?;
    for Packed { member: Member { name, bytes, .. }, mode, file } in files {
        append(&name, mode, bytes, &mut file.take(bytes))?;
    }
    archive.into_inner()?.flush()
}
