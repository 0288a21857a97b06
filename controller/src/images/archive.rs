//! What a revision says of a tar archive, whether that was imported or sent by an agent.

use super::draft::Shape;
use metalcast_formats::tar::{BLOCK_BYTES, Index};
use metalcast_shared::manifest::CHUNK_BYTES;

/// Room on the target for each member, and for what a filesystem needs for itself.
const MEMBER_BYTES: u64 = 512;
const FILESYSTEM_BYTES: u64 = 64 << 20;

/// The shape of the partition that an archive is, in so many frames and blocks.
pub(super) fn shape(chunks: u32, blocks: u64, index: &Index) -> Shape {
    Shape {
        block_bytes: BLOCK_BYTES as u32,
        total_blocks: u64::from(chunks) * u64::from(CHUNK_BYTES / BLOCK_BYTES as u32),
        used_blocks: blocks,
        device_bytes: needed_bytes(index),
        head_bytes: 0,
    }
}

/// What is to be said of it beside where it comes from.
pub(super) fn remark(index: &Index) -> &'static str {
    match index.kernels.is_empty() && !index.has_menu {
        true => "; it has no kernel in /boot: it cannot be started in a slot",
        false => "",
    }
}

/// Bytes that a partition must have for its members, and the filesystem around them.
fn needed_bytes(index: &Index) -> u64 {
    let members = u64::from(index.members).saturating_mul(MEMBER_BYTES);
    let content = index.content_bytes.saturating_add(index.content_bytes / 32);
    content.saturating_add(members).saturating_add(FILESYSTEM_BYTES)
}
