//! What the file of a partition is made of: a frame for the head, then one for each chunk.

use super::{PlainChunk, Sealed, Sealer, frame_bytes};
use crate::{
    partclone::{Bitmap, HeadFacts, head_bytes, write_head},
    tar::{Packed, with_context},
};
use metalcast_shared::hash::Hash;
use std::io::{self, Write};

/// zstd's own default: the best of its fast levels, and as fast to decompress as any.
const LEVEL: i32 = 3;

/// Writes header and bitmap as a frame of their own, which begins the file of a partition.
pub fn write_head_frame(
    out: &mut impl Write,
    facts: &HeadFacts<'_>,
    used: &Bitmap,
) -> io::Result<()> {
    let mut frame = zstd::stream::write::Encoder::new(out, LEVEL)?;
    frame.include_checksum(true)?;
    frame.set_pledged_src_size(Some(head_bytes(used)))?;
    write_head(&mut frame, facts, used)?;
    frame.finish().map(drop)
}

/// One that seals chunks; its memory is kept from one to the next.
pub fn sealer() -> impl FnMut(PlainChunk) -> io::Result<Sealed> {
    let mut sealer = Sealer::new(LEVEL);
    move |plain| match &mut sealer {
        Ok(sealer) => sealer.seal(plain),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// The same for what an archive is cut into: a frame's context lies in front of it and counts as a part
/// of it.
pub fn archive_sealer() -> impl FnMut(Packed) -> io::Result<Sealed> {
    let mut seal = sealer();
    move |Packed { plain, context }| {
        let mut sealed = seal(plain)?;
        sealed.frame = with_context(&context, &sealed.frame);
        sealed.chunk.frame_bytes = frame_bytes(&sealed.frame)?;
        sealed.chunk.frame_hash = Hash::of(&sealed.frame);
        Ok(sealed)
    }
}
