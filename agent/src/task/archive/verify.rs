//! Reads every file back, through another mount, and holds it against the hashes of what was sent.

use super::{
    super::{StepLog, plan::Target},
    Archive, mount,
    names::Names,
    spool::{self, Record, Records},
};
use crate::disk::{Access, Mounted, Tree};
use anyhow::{Context, bail};
use metalcast_formats::tar::{Meta, Piece};
use metalcast_shared::hash::Hash;
use std::os::unix::fs::FileExt;

/// Differing files that are named; more are only counted.
const NAMED: usize = 8;

pub(in super::super) fn run(
    archive: &Archive<'_>,
    target: &Target,
    log: &StepLog<'_>,
) -> anyhow::Result<()> {
    let mounted = mount(archive.fresh, target, Access::Read, log)?;
    let read = files(&mounted, archive.partition.used_bytes(), log);
    let closed = mounted.close();
    let root = read?;
    closed?;
    let mounted = mount(archive.fresh, target, Access::Write, log)?;
    let ended = end(&mounted, root.as_deref());
    let closed = mounted.close();
    ended?;
    closed?;
    target.open(log)?.drop_caches()
}

/// Reads all files; what the root directory is to get.
fn files(mounted: &Mounted, total: u64, log: &StepLog<'_>) -> anyhow::Result<Option<Box<Meta>>> {
    let tree = Tree::open(mounted.dir())?;
    let (mut root, mut done, mut wrong, mut named) = (None, 0, 0_u64, Vec::new());
    let mut buffer = Vec::new();
    for record in Records::of(mounted.dir())? {
        match record? {
            Record::Content { path, pieces, hash } => {
                log.check_cancel()?;
                if read(&tree, &path, &pieces, &mut buffer)? != hash {
                    wrong += 1;
                    let name = format!("/{}", String::from_utf8_lossy(&path));
                    if named.len() < NAMED && !named.contains(&name) {
                        named.push(name);
                    }
                }
                done += buffer.len() as u64;
                log.progress(done, total, 0);
            }
            Record::Meta { path, meta } if path.is_empty() => root = Some(meta),
            Record::Meta { .. } | Record::Link { .. } => {}
        }
    }
    if wrong > 0 {
        let more = if wrong > NAMED as u64 { ", ..." } else { "" };
        bail!(
            "{wrong} parts of files read back differently from what was written: {}{more}; the disk or \
             its controller is faulty",
            named.join(", ")
        );
    }
    log.note(format!("{done} bytes of files read back as they were sent"));
    Ok(root)
}

/// The hash of some pieces of a file, which were written at once.
fn read(tree: &Tree, path: &[u8], pieces: &[Piece], buffer: &mut Vec<u8>) -> anyhow::Result<Hash> {
    /// As much as a frame holds.
    const MAX_BYTES: u64 = 1 << 20;
    let file = tree.read(path)?;
    buffer.clear();
    for Piece { offset, bytes } in pieces {
        let at = buffer.len();
        let length = usize::try_from((*bytes).min(MAX_BYTES))?;
        buffer.resize(at + length, 0);
        file.read_exact_at(&mut buffer[at..], *offset)
            .with_context(|| format!("reading /{} back", String::from_utf8_lossy(path)))?;
    }
    Ok(Hash::of(buffer))
}

/// Takes the notes away, which changes the root directory's time.
fn end(mounted: &Mounted, root: Option<&Meta>) -> anyhow::Result<()> {
    spool::remove(mounted.dir())?;
    if let Some(meta) = root {
        Tree::open(mounted.dir())?.set_meta(b"", meta, false, &Names::of(&mounted.root()?))?;
    }
    Ok(())
}
