//! Frames into files. Frames come in any order and from several threads; each stands for itself.

use super::{
    super::StepLog,
    names::Names,
    spool::{Record, Spool},
};
use crate::disk::Tree;
use anyhow::{Context as _, bail, ensure};
use metalcast_formats::tar::{Context, Index, Kind, Member, Meta, Part, Parts, Piece};
use metalcast_shared::hash::Hash;
use std::{
    os::unix::fs::FileExt,
    sync::{Mutex, PoisonError},
};

/// Hard links to what is a hard link itself, which have to wait for that.
const MAX_LATER: usize = 100_000;

/// Puts members into a directory.
pub(super) struct Unpacker<'u> {
    tree: &'u Tree,
    spool: &'u Spool,
    index: &'u Index,
    /// Attributes that the filesystem does not have: how many members, and the first.
    unsupported: Mutex<(u64, String)>,
}

impl<'u> Unpacker<'u> {
    pub(super) fn new(tree: &'u Tree, spool: &'u Spool, index: &'u Index) -> Self {
        Self { tree, spool, index, unsupported: Mutex::default() }
    }

    /// Takes a frame, whose hashes are right.
    pub(super) fn frame(&self, context: &Context, data: &[u8]) -> anyhow::Result<()> {
        let mut parts = Parts::new(context, data);
        while let Some(part) = parts.next_part().context("taking a frame of the archive apart")? {
            match part {
                Part::Member { number, .. } if self.is_superseded(number) => {}
                Part::Member { member, data, .. } => self.member(&member, data)?,
                Part::Rest { rest, .. } if rest.is_skipped || self.is_superseded(rest.number) => {}
                Part::Rest { rest, data } => self.content(&rest.path, &rest.pieces, data)?,
            }
        }
        Ok(())
    }

    fn is_superseded(&self, number: u32) -> bool {
        self.index.superseded.binary_search(&number).is_ok()
    }

    fn member(&self, member: &Member, data: &[u8]) -> anyhow::Result<()> {
        let Member { path, kind, meta, .. } = member;
        match kind {
            Kind::File => {
                let file = self.tree.file(path)?;
                let bytes = member.file_bytes;
                file.set_len(bytes).with_context(|| format!("making a file of {bytes} bytes"))?;
                drop(file);
                self.content(path, &member.pieces(0, data.len() as u64), data)?;
                // What comes later would change the time again, and take rights away.
                let is_whole = data.len() as u64 == member.data_bytes;
                if is_whole && !has_acl(meta) {
                    self.set(path, meta, false)
                } else {
                    self.later(path, meta)
                }
            }
            Kind::Directory => {
                self.tree.directory(path)?;
                self.later(path, meta)
            }
            Kind::HardLink(target) => {
                let (path, target) = (path.clone(), target.clone());
                self.spool.put(&Record::Link { path, target })
            }
            Kind::Symlink(_) => {
                self.tree.special(path, kind)?;
                self.set(path, meta, true)
            }
            Kind::Character { .. } | Kind::Block { .. } | Kind::Fifo => {
                self.tree.special(path, kind)?;
                if has_acl(meta) { self.later(path, meta) } else { self.set(path, meta, false) }
            }
        }
    }

    /// Writes content where it belongs, and notes it.
    fn content(&self, path: &[u8], pieces: &[Piece], data: &[u8]) -> anyhow::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let file = self.tree.file(path)?;
        let mut rest = data;
        for Piece { offset, bytes } in pieces {
            let length = usize::try_from(*bytes).ok().filter(|length| *length <= rest.len());
            let length = length.context("a part of a member is shorter than its place")?;
            let (here, behind) = rest.split_at(length);
            file.write_all_at(here, *offset)
                .with_context(|| format!("writing /{}", String::from_utf8_lossy(path)))?;
            rest = behind;
        }
        ensure!(rest.is_empty(), "a part of a member is longer than its place");
        let (path, pieces) = (path.to_vec(), pieces.to_vec());
        self.spool.put(&Record::Content { path, pieces, hash: Hash::of(data) })
    }

    fn later(&self, path: &[u8], meta: &Meta) -> anyhow::Result<()> {
        let (path, meta) = (path.to_vec(), Box::new(meta.clone()));
        self.spool.put(&Record::Meta { path, meta })
    }

    fn set(&self, path: &[u8], meta: &Meta, is_symlink: bool) -> anyhow::Result<()> {
        let unsupported = self.tree.set_meta(path, meta, is_symlink, &Names::none())?;
        self.note(unsupported);
        Ok(())
    }

    fn note(&self, unsupported: Option<String>) {
        if let Some(what) = unsupported {
            let mut noted = self.unsupported.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.0 == 0 {
                noted.1 = what;
            }
            noted.0 += 1;
        }
    }

    /// What had to wait: hard links first, since they change their directories' times.
    pub(super) fn finish(self, names: &Names, log: &StepLog<'_>) -> anyhow::Result<()> {
        self.links(log)?;
        for record in self.spool.read()? {
            let Record::Meta { path, meta } = record? else { continue };
            log.check_cancel()?;
            self.note(self.tree.set_meta(&path, &meta, false, names)?);
        }
        let (count, first) = self.unsupported.into_inner().unwrap_or_else(PoisonError::into_inner);
        if count > 0 {
            log.note(format!(
                "attributes of {count} members were left out, as the filesystem has none such: {first} \
                 and so on"
            ));
        }
        Ok(())
    }

    fn links(&self, log: &StepLog<'_>) -> anyhow::Result<()> {
        let mut later = Vec::new();
        for record in self.spool.read()? {
            let Record::Link { path, target } = record? else { continue };
            log.check_cancel()?;
            if !self.tree.link(&path, &target)? {
                ensure!(later.len() < MAX_LATER, "too many hard links to hard links");
                later.push((path, target));
            }
        }
        while !later.is_empty() {
            let before = later.len();
            let mut left = Vec::new();
            for (path, target) in later {
                if !self.tree.link(&path, &target)? {
                    left.push((path, target));
                }
            }
            if let Some((path, target)) = left.first().filter(|_| left.len() == before) {
                let [path, target] = [path, target].map(|it| String::from_utf8_lossy(it));
                bail!("hard link /{path} leads to /{target}, which is not there");
            }
            later = left;
        }
        Ok(())
    }
}

fn has_acl(meta: &Meta) -> bool {
    meta.access_acl.is_some() || meta.default_acl.is_some()
}
