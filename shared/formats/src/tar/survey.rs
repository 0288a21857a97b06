//! What can be told of an archive only by all of its members: which of them do not count, what
//! contradicts what, and whether it has a kernel.

use super::{
    context::Index,
    member::{Kind, Member},
};
use metalcast_shared::hash::Hash;
use std::collections::{HashMap, HashSet, hash_map::Entry};

/// Most paths that an archive may have: each is remembered with 28 bytes.
pub const MAX_PATHS: usize = 4_000_000;

/// Most members that do not count.
const MAX_SUPERSEDED: usize = 1_000_000;

/// Most kernels, and most initial RAM disks, that are noted.
const MAX_NOTED: usize = 64;

/// What files are rounded up to in a filesystem.
const FS_BLOCK_BYTES: u64 = 4096;

/// Where GRUB's menus are.
const MENUS: [&[u8]; 2] = [b"boot/grub/grub.cfg", b"boot/grub2/grub.cfg"];

/// Instead of the path; nobody makes two paths with the same 128 bits of BLAKE3.
type Name = [u8; 16];

/// What has a path.
#[derive(Clone, Copy, Debug)]
struct Holder {
    /// Number of the member; of a directory that is no member itself, one that lies in it.
    number: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Something is in it, or it is a member.
    Directory { is_member: bool },
    /// Everything else.
    Other { is_linked: bool },
}

/// The survey.
#[derive(Default)]
pub(super) struct Survey {
    paths: HashMap<Name, Holder>,
    /// Targets of hard links that were not seen yet.
    wanted: HashSet<Name>,
    /// For messages: the first link to each of them, if there are any.
    first_wanted: Option<(Vec<u8>, Vec<u8>)>,
    /// The parent that was looked at last.
    parent: Vec<u8>,
    index: Index,
}

impl Survey {
    /// Takes the next member; its number.
    pub(super) fn add(&mut self, member: &Member) -> Result<u32, String> {
        let number = self.index.members;
        self.index.members = number.checked_add(1).ok_or("it has more members than are counted")?;
        self.parents(&member.path, number)?;
        let is_directory = member.kind == Kind::Directory;
        if let Kind::HardLink(target) = &member.kind {
            if *target == member.path {
                // What tar writes for a file that it was told to take twice.
                return self.supersede(number).map(|()| number);
            }
            self.link(&member.path, target)?;
        }
        if member.path.is_empty() && !is_directory {
            return Err("it would replace the directory that everything is in".to_owned());
        }
        self.enter(&member.path, number, is_directory)?;
        self.note(member);
        Ok(number)
    }

    /// How many members were taken.
    pub(super) fn members(&self) -> u32 {
        self.index.members
    }

    /// What is known when all were taken.
    pub(super) fn finish(&mut self) -> Result<Index, String> {
        self.wanted.retain(|name| !self.paths.contains_key(name));
        if !self.wanted.is_empty() {
            let (link, target) = self.first_wanted.take().unwrap_or_default();
            return Err(format!(
                "{} hard links lead to members that are not in the archive, perhaps {} to {}",
                self.wanted.len(),
                super::shown(&link),
                super::shown(&target)
            ));
        }
        let mut index = std::mem::take(&mut self.index);
        index.superseded.sort_unstable();
        Ok(index)
    }

    /// All directories above a path.
    fn parents(&mut self, path: &[u8], number: u32) -> Result<(), String> {
        let Some(end) = path.iter().rposition(|byte| *byte == b'/') else { return Ok(()) };
        let parent = &path[..end];
        if parent == self.parent {
            return Ok(());
        }
        let slashes = parent.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in slashes.map(|(at, _)| at).chain([parent.len()]) {
            self.room()?;
            let holder = Holder { number, what: What::Directory { is_member: false } };
            let there = self.paths.entry(name(&parent[..end])).or_insert(holder);
            if let What::Other { .. } = there.what {
                return Err(format!(
                    "{} is no directory (a link to one perhaps), and nothing can be put beneath it",
                    super::shown(&parent[..end])
                ));
            }
        }
        self.parent = parent.to_vec();
        Ok(())
    }

    fn room(&self) -> Result<(), String> {
        match self.paths.len() < MAX_PATHS {
            true => Ok(()),
            false => Err(format!("an archive may have {MAX_PATHS} paths, and it has more")),
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), String> {
        match self.paths.get_mut(&name(target)) {
            Some(Holder { what: What::Other { is_linked }, .. }) => *is_linked = true,
            Some(_) => return Err(format!("a hard link to directory {}", super::shown(target))),
            None => {
                if self.wanted.len() == MAX_SUPERSEDED {
                    return Err("too many hard links precede what they link to".to_owned());
                }
                self.wanted.insert(name(target));
                self.first_wanted.get_or_insert_with(|| (path.to_vec(), target.to_vec()));
            }
        }
        Ok(())
    }

    fn enter(&mut self, path: &[u8], number: u32, is_directory: bool) -> Result<(), String> {
        self.room()?;
        let what = match is_directory {
            true => What::Directory { is_member: true },
            false => What::Other { is_linked: false },
        };
        let mut entry = match self.paths.entry(name(path)) {
            Entry::Vacant(entry) => {
                entry.insert(Holder { number, what });
                return Ok(());
            }
            Entry::Occupied(entry) => entry,
        };
        let there = *entry.get();
        entry.insert(Holder { number, what });
        match (there.what, is_directory) {
            (What::Directory { is_member: false }, true) => Ok(()),
            (What::Directory { .. }, true) | (What::Other { is_linked: false }, false) => {
                self.supersede(there.number)
            }
            (What::Other { is_linked: true }, false) => {
                Err("it replaces a member that a hard link was made to".to_owned())
            }
            (What::Directory { .. }, false) => {
                Err("it replaces a directory of the archive, which has other members".to_owned())
            }
            (What::Other { .. }, true) => {
                Err("a directory that replaces something else of the archive".to_owned())
            }
        }
    }

    fn supersede(&mut self, number: u32) -> Result<(), String> {
        if self.index.superseded.len() == MAX_SUPERSEDED {
            return Err(format!(
                "more than {MAX_SUPERSEDED} of its members are replaced by others"
            ));
        }
        self.index.superseded.push(number);
        Ok(())
    }

    fn note(&mut self, member: &Member) {
        if member.kind == Kind::File {
            let blocks = member.data_bytes.div_ceil(FS_BLOCK_BYTES);
            let bytes = blocks.saturating_mul(FS_BLOCK_BYTES);
            self.index.content_bytes = self.index.content_bytes.saturating_add(bytes);
        }
        if MENUS.contains(&&member.path[..]) {
            self.index.has_menu = true;
        }
        let is_content = matches!(member.kind, Kind::File | Kind::HardLink(_));
        let Some(name) = member.path.strip_prefix(b"boot/").filter(|_| is_content) else { return };
        // It will stand in a menu.
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(byte);
        let Some(name) = std::str::from_utf8(name).ok().filter(|_| name.iter().all(is_plain))
        else {
            return;
        };
        let noted = match () {
            () if name.starts_with("vmlinuz") => &mut self.index.kernels,
            () if name.starts_with("initr") => &mut self.index.initrds,
            () => return,
        };
        if noted.len() < MAX_NOTED && !noted.iter().any(|other| other == name) {
            noted.push(name.to_owned());
        }
    }
}

fn name(path: &[u8]) -> Name {
    *Hash::of(path).0.first_chunk().expect("a hash has 32 bytes")
}
