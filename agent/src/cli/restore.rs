//! One partition from a revision's directory, or from any Clonezilla image, onto a partition or into
//! a file. As in a deployment, the first MiB comes last.

use crate::disk::{Device, MIB, Window};
use anyhow::{Context, ensure};
use clap::Args;
use metalcast_formats::{
    chunk::{self, Chunks, PlainChunk},
    clonezilla::Directory,
    partclone::Reader,
    stream,
};
use metalcast_shared::{
    codec,
    hash::Hash,
    manifest::{MAX_ROOT_BYTES, Manifest, Run, SignedManifest},
};
use std::{
    fs::File,
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

/// What makes a directory a revision of ours; both lie beside the Clonezilla image.
const MANIFEST_FILE: &str = "metalcast.manifest";
const PAGES_FILE: &str = "metalcast.pages";

/// Room for the signature around a root.
const SIGNED_BYTES: usize = MAX_ROOT_BYTES + 1024;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Directory of a revision, or of a Clonezilla image.
    #[arg(long)]
    image: PathBuf,
    /// Which of its partitions, such as sda1.
    #[arg(long)]
    partition: String,
    /// The partition that is overwritten, or a file.
    #[arg(long)]
    to: PathBuf,
    /// Read everything back and compare.
    #[arg(long)]
    verify: bool,
}

/// A chunk with the place of its blocks.
struct Piece {
    start: u64,
    block_bytes: u32,
    runs: Vec<Run>,
    data: Vec<u8>,
}

impl Piece {
    fn extents(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let block = u64::from(self.block_bytes);
        let extent = move |run: &Run| {
            (self.start + u64::from(run.start) * block, run.count as usize * block as usize)
        };
        self.runs.iter().map(extent)
    }
}

/// Offsets and lengths, and what they must hash to one behind the other.
struct Written {
    extents: Vec<(u64, usize)>,
    hash: Hash,
}

/// Writes what comes, keeps the first MiB to the end.
struct Writer<'d> {
    device: &'d Device<'d>,
    target: Window<'d>,
    first: Vec<Piece>,
    /// Everything that was written, if it is to be read back.
    written: Option<Vec<Written>>,
    bytes: u64,
}

impl Restore {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        if self.image.join(MANIFEST_FILE).exists() {
            return self.revision().with_context(|| format!("restoring {}", self.image.display()));
        }
        self.clonezilla().with_context(|| format!("restoring {}", self.image.display()))
    }

    fn revision(&self) -> anyhow::Result<()> {
        let bytes = std::fs::read(self.image.join(MANIFEST_FILE))?;
        let signed: SignedManifest = codec::decode(&bytes, SIGNED_BYTES)?;
        let manifest = Manifest::decode(&signed.root)?;
        let names: Vec<&str> = manifest.partitions.iter().map(|p| p.name.as_str()).collect();
        let partition = manifest.partition(&self.partition).with_context(|| {
            format!("no partition {}; there are {}", self.partition, names.join(", "))
        })?;
        let device = open_target(&self.to, partition.device_bytes)?;
        let mut writer = Writer::new(&device, self.verify);
        let pages = File::open(self.image.join(PAGES_FILE)).context("opening the pages")?;
        let frames = File::open(self.image.join(&partition.file)).context("opening the frames")?;
        for number in 0..partition.pages.len() {
            let mut bytes = vec![0; partition.pages[number].bytes as usize];
            pages.read_exact_at(&mut bytes, partition.pages[number].offset)?;
            for entry in partition.decode_page(number, &bytes)?.chunks {
                let mut frame = vec![0; entry.frame_bytes as usize];
                frames.read_exact_at(&mut frame, entry.offset)?;
                let data = chunk::open(&frame, &entry, partition)?;
                let start = partition.range_start(&entry);
                let block_bytes = partition.block_bytes;
                writer.take(Piece { start, block_bytes, runs: entry.runs, data })?;
            }
        }
        writer.finish(&self.to)
    }

    fn clonezilla(&self) -> anyhow::Result<()> {
        let directory = Directory::open(&self.image)?;
        let names: Vec<&str> = directory.partitions.iter().map(|p| p.name.as_str()).collect();
        let image =
            directory.partitions.iter().find(|p| p.name == self.partition).with_context(|| {
                format!("no partition {}; there are {}", self.partition, names.join(", "))
            })?;
        let opened = stream::open(image.pieces.clone(), image.compression)?;
        let reader = Reader::open(opened.stream)?;
        let header = reader.header().clone();
        let device = open_target(&self.to, header.device_bytes)?;
        let mut writer = Writer::new(&device, self.verify);
        let mut chunks = Chunks::new(reader)?;
        let range = u64::from(chunks.chunk_blocks()) * u64::from(header.block_bytes);
        while let Some(PlainChunk { index, runs, data }) = chunks.next_chunk()? {
            let (start, block_bytes) = (u64::from(index) * range, header.block_bytes);
            writer.take(Piece { start, block_bytes, runs, data })?;
        }
        chunks.finish()?;
        writer.finish(&self.to)
    }
}

impl<'d> Writer<'d> {
    fn new(device: &'d Device<'d>, verify: bool) -> Self {
        let written = verify.then(Vec::new);
        Self { device, target: device.whole(), first: Vec::new(), written, bytes: 0 }
    }

    fn take(&mut self, piece: Piece) -> anyhow::Result<()> {
        if let Some(written) = &mut self.written {
            let extents = piece.extents().collect();
            written.push(Written { extents, hash: Hash::of(&piece.data) });
        }
        self.bytes += piece.data.len() as u64;
        if piece.start < MIB {
            self.target.zero_at(0, self.target.bytes().min(MIB))?;
            self.first.push(piece);
            return Ok(());
        }
        self.write(&piece)
    }

    fn write(&self, piece: &Piece) -> anyhow::Result<()> {
        let mut rest = piece.data.as_slice();
        for (offset, length) in piece.extents() {
            let (run, behind) = rest.split_at_checked(length).context("a chunk is too short")?;
            self.target.write_at(run, offset)?;
            rest = behind;
        }
        Ok(())
    }

    fn finish(mut self, to: &Path) -> anyhow::Result<()> {
        self.device.flush()?;
        for piece in std::mem::take(&mut self.first) {
            self.write(&piece)?;
        }
        self.device.flush()?;
        tracing::info!("{} bytes written to {}", self.bytes, to.display());
        let Some(written) = self.written else { return Ok(()) };
        self.device.drop_caches()?;
        for Written { extents, hash } in written {
            let at = extents.first().map_or(0, |(at, _)| *at);
            let back = self.target.hash(extents.into_iter())?;
            ensure!(back == hash, "what was written at byte {at} reads back differently");
        }
        tracing::info!("read back and compared: as written");
        Ok(())
    }
}

fn open_target(to: &Path, bytes: u64) -> anyhow::Result<Device<'static>> {
    let is_block = to.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let device = if is_block { Device::open(to, None)? } else { Device::open_file(to, bytes)? };
    ensure!(
        device.bytes() >= bytes,
        "{} has {} bytes, the image needs {bytes}",
        to.display(),
        device.bytes()
    );
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::rig::TestImage;
    use std::os::unix::fs::FileExt;

    fn restored(image: &Path, partition: &str, to: &Path) -> anyhow::Result<()> {
        let (image, to, partition) = (image.to_owned(), to.to_owned(), partition.to_owned());
        Restore { image, partition, to, verify: true }.run()
    }

    fn revision(image: &TestImage, dir: &Path) {
        let signed = codec::encode(&image.signed);
        std::fs::write(dir.join(MANIFEST_FILE), signed).unwrap();
        std::fs::write(dir.join(PAGES_FILE), &image.pages[0]).unwrap();
        let frames = File::create(dir.join(&image.partition().file)).unwrap();
        for chunk in &image.chunks {
            frames.write_all_at(&image.frames[&chunk.index], chunk.offset).unwrap();
        }
    }

    #[test]
    fn a_revision_and_a_clonezilla_image_give_the_same_partition() {
        let image = TestImage::ordinary();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("revision")).unwrap();
        revision(&image, &at("revision"));
        std::fs::create_dir(at("saved")).unwrap();
        std::fs::write(at("saved/parts"), "sda1\n").unwrap();
        std::fs::write(at("saved/sda1.ext4-ptcl-img.uncomp"), &image.saved).unwrap();
        for (from, to) in [("revision", "a"), ("saved", "b")] {
            restored(&at(from), "sda1", &at(to)).unwrap();
        }
        let (a, b) = (std::fs::read(at("a")).unwrap(), std::fs::read(at("b")).unwrap());
        assert_eq!(a.len() as u64, image.partition().device_bytes);
        assert!(a == b);
        let mut check = std::process::Command::new("e2fsck");
        crate::task::tests::rig::tool(check.args(["-f", "-n"]).arg(at("a")));

        let error = format!("{:#}", restored(&at("saved"), "sda2", &at("c")).unwrap_err());
        assert!(error.contains("no partition sda2; there are sda1"), "{error}");
        let spoiled = at("revision").join(&image.partition().file);
        let file = File::options().write(true).open(spoiled).unwrap();
        file.write_all_at(&[0xee; 40], image.chunks[3].offset + 7).unwrap();
        let error = format!("{:#}", restored(&at("revision"), "sda1", &at("c")).unwrap_err());
        assert!(error.contains("not the one in the manifest"), "{error}");
    }
}
