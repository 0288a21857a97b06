//! Writing an image as a deployment does: the first MiB is zero until everything else is on the disk,
//! so that what was written half way is no filesystem.

use super::image::{Image, Piece};
use crate::disk::{Device, MIB, Window};
use anyhow::ensure;
use metalcast_shared::hash::Hash;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Whether what was written is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadBack {
    /// All of it, and compared.
    Compare,
    /// Nothing.
    Skip,
}

/// Offsets and lengths, and what they must hash to one behind the other.
struct Written {
    extents: Vec<(u64, usize)>,
    hash: Hash,
}

/// Writes an image into a part of a disk; `adapt` is given its first bytes before they are written.
/// Returns how many bytes were written.
pub(super) fn write(
    image: Image,
    device: &Device<'_>,
    target: Window<'_>,
    read_back: ReadBack,
    adapt: &dyn Fn(&mut [u8]),
) -> anyhow::Result<u64> {
    let writer = Writer {
        device,
        target,
        read_back,
        first: Mutex::default(),
        written: Mutex::default(),
        bytes: AtomicU64::new(0),
    };
    target.zero_at(0, target.bytes().min(MIB))?;
    device.flush()?;
    image.each(|piece| match piece.start < MIB {
        true => {
            lock(&writer.first).push(piece);
            Ok(())
        }
        false => writer.write(&piece),
    })?;
    writer.complete()?;
    for mut piece in lock(&writer.first).drain(..) {
        if piece.extents().next().is_some_and(|(at, _)| at == 0) {
            adapt(&mut piece.data);
        }
        writer.write(&piece)?;
    }
    writer.complete()?;
    Ok(writer.bytes.into_inner())
}

struct Writer<'w> {
    device: &'w Device<'w>,
    target: Window<'w>,
    read_back: ReadBack,
    /// What is written when all else is on the disk.
    first: Mutex<Vec<Piece>>,
    /// What was written since it was last looked at.
    written: Mutex<Vec<Written>>,
    bytes: AtomicU64,
}

impl Writer<'_> {
    /// From any thread.
    fn write(&self, piece: &Piece) -> anyhow::Result<()> {
        self.target.write_extents(piece.extents(), &piece.data)?;
        self.bytes.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
        if self.read_back == ReadBack::Compare {
            let (extents, hash) = (piece.extents().collect(), Hash::of(&piece.data));
            lock(&self.written).push(Written { extents, hash });
        }
        Ok(())
    }

    /// All that was written is on the disk, and what it should be.
    fn complete(&self) -> anyhow::Result<()> {
        self.device.flush()?;
        self.device.drop_caches()?;
        for Written { extents, hash } in lock(&self.written).drain(..) {
            let at = extents.first().map_or(0, |(at, _)| *at);
            let back = self.target.hash(extents.into_iter())?;
            ensure!(
                back == hash,
                "what was written at byte {at} reads back differently: the disk or its controller \
                 is faulty; nothing that can be started was left"
            );
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
