//! Reads an image front to back, verifying as it goes.

use super::{
    BYTE_BITMAP_END, ReadError, Section,
    bitmap::{self, Bitmap},
    checksum::{self, MAX_SUM_BYTES, Running},
    header::{self, BitmapMode, Header, PREFIX_BYTES, V1_BYTES, V2_BYTES, Version},
};
use std::io::{BufReader, ErrorKind, Read};

/// Read-ahead, so that an image with a checksum after every block is not read in tiny pieces.
const BUFFER_BYTES: usize = 128 << 10;

/// Most that is read (and allocated) at once.
const PIECE_BYTES: usize = 1 << 20;

/// A partclone image being read from a decompressed stream.
pub struct Reader<R> {
    source: Source<R>,
    header: Header,
    bitmap: Bitmap,
    used_blocks: u64,
    read_blocks: u64,
    running: Running,
}

impl<R: Read> Reader<R> {
    /// Reads and checks header and bitmap. Memory: the bitmap, which grows only as it arrives.
    pub fn open(stream: R) -> Result<Self, ReadError> {
        let mut source = Source::new(stream);
        let header = read_header(&mut source)?;
        let bitmap = read_bitmap(&mut source, &header)?;
        Ok(Self::after_head(source, header, bitmap))
    }

    /// An image without a head, which was learnt elsewhere: `stream` has the used blocks of `bitmap`
    /// and nothing else.
    pub(super) fn bare(header: Header, bitmap: Bitmap, stream: R) -> Self {
        Self::after_head(Source::new(stream), header, bitmap)
    }

    fn after_head(source: Source<R>, header: Header, bitmap: Bitmap) -> Self {
        let used_blocks = bitmap.count_used();
        let running = Running::new(header.checksums);
        Self { source, header, bitmap, used_blocks, read_blocks: 0, running }
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which blocks follow.
    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
    }

    /// Used blocks, counted in the bitmap.
    pub fn used_blocks(&self) -> u64 {
        self.used_blocks
    }

    /// What the head says, for those who know the blocks from elsewhere.
    pub fn into_head(self) -> (Header, Bitmap) {
        (self.header, self.bitmap)
    }

    /// Bytes of the decompressed stream read so far.
    pub fn offset(&self) -> u64 {
        self.source.offset
    }

    /// Appends the next `count` used blocks to `out`, or as many as are left, and says how many.
    /// A checksum that falls behind one of them is verified. On an error `out` may have grown.
    pub fn read_blocks(&mut self, count: u32, out: &mut Vec<u8>) -> Result<u32, ReadError> {
        let block_bytes = self.header.block_bytes as usize;
        let count = u64::from(count).min(self.used_blocks - self.read_blocks);
        let mut left = count;
        while left > 0 {
            let step = left.min(self.running.blocks_to_border());
            let step = step.min((PIECE_BYTES / block_bytes).max(1) as u64);
            let from = out.len();
            self.fill_blocks(step as usize * block_bytes, out)?;
            self.running.update(&out[from..], block_bytes);
            self.read_blocks += step;
            left -= step;
            self.verify_if_due()?;
        }
        Ok(count as u32)
    }

    /// Reads and verifies what is left of the image, and that nothing follows it.
    pub fn finish(mut self) -> Result<(), ReadError> {
        let per_piece = (PIECE_BYTES as u32 / self.header.block_bytes).max(1);
        let mut piece = Vec::new();
        while self.read_blocks(per_piece, &mut piece)? > 0 {
            piece.clear();
        }
        self.source.expect_end()
    }

    fn fill_blocks(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<(), ReadError> {
        let section = Section::Block(self.read_blocks);
        let end = out.len() + bytes;
        while out.len() < end {
            let from = out.len();
            out.resize(end.min(from + PIECE_BYTES), 0);
            self.source.fill(&mut out[from..], section)?;
        }
        Ok(())
    }

    fn verify_if_due(&mut self) -> Result<(), ReadError> {
        let is_end = self.read_blocks == self.used_blocks;
        let Some((computed, bytes)) = self.running.due(is_end) else { return Ok(()) };
        let section = Section::Checksum(self.read_blocks);
        let offset = self.source.offset;
        let mut stored = [0; MAX_SUM_BYTES];
        self.source.fill(&mut stored[..bytes], section)?;
        checksum::compare(&stored[..bytes], &computed[..bytes], offset, section)
    }
}

fn read_header<R: Read>(source: &mut Source<R>) -> Result<Header, ReadError> {
    let mut prefix = [0; PREFIX_BYTES];
    source.fill(&mut prefix, Section::Header)?;
    match header::version(&prefix)? {
        Version::V1 => Header::parse_v1(&read_rest::<V1_BYTES, R>(source, &prefix)?),
        Version::V2 => Header::parse_v2(&read_rest::<V2_BYTES, R>(source, &prefix)?),
    }
}

fn read_rest<const BYTES: usize, R: Read>(
    source: &mut Source<R>,
    prefix: &[u8],
) -> Result<[u8; BYTES], ReadError> {
    let mut bytes = [0; BYTES];
    let (start, rest) = bytes.split_at_mut(prefix.len());
    start.copy_from_slice(prefix);
    source.fill(rest, Section::Header)?;
    Ok(bytes)
}

fn read_bitmap<R: Read>(source: &mut Source<R>, header: &Header) -> Result<Bitmap, ReadError> {
    let blocks = header.total_blocks;
    let mut fill = |piece: &mut [u8]| source.fill(piece, Section::Bitmap);
    let bits = match header.bitmap_mode {
        BitmapMode::None => return Ok(Bitmap::all_used(blocks)),
        BitmapMode::Bit => {
            let bits = bitmap::read_bits(blocks.div_ceil(8), &mut fill)?;
            let offset = source.offset;
            let mut stored = [0; 4];
            source.fill(&mut stored, Section::BitmapEnd)?;
            let computed = checksum::crc(&bits).to_le_bytes();
            checksum::compare(&stored, &computed, offset, Section::BitmapEnd)?;
            bits
        }
        BitmapMode::Byte => {
            let bits = bitmap::read_bytes(blocks, &mut fill)?;
            let offset = source.offset;
            let mut end = [0; BYTE_BITMAP_END.len()];
            source.fill(&mut end, Section::BitmapEnd)?;
            if &end != BYTE_BITMAP_END {
                let what = "the bitmap does not end with \"BiTmAgIc\"".to_owned();
                return Err(ReadError::Invalid { offset, what });
            }
            bits
        }
    };
    Ok(Bitmap::from_bits(blocks, bits).expect("as many bits were read as there are blocks"))
}

/// The stream and how far it has been read.
struct Source<R> {
    stream: BufReader<R>,
    offset: u64,
}

impl<R: Read> Source<R> {
    fn new(stream: R) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream), offset: 0 }
    }

    fn fill(&mut self, buffer: &mut [u8], section: Section) -> Result<(), ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..], section)? {
                0 => return Err(ReadError::Truncated { offset: self.offset, section }),
                bytes => filled += bytes,
            }
        }
        Ok(())
    }

    fn expect_end(&mut self) -> Result<(), ReadError> {
        let offset = self.offset;
        match self.read_some(&mut [0], Section::End)? {
            0 => Ok(()),
            _ => Err(ReadError::Trailing { offset }),
        }
    }

    fn read_some(&mut self, buffer: &mut [u8], section: Section) -> Result<usize, ReadError> {
        loop {
            match self.stream.read(buffer) {
                Ok(bytes) => {
                    self.offset += bytes as u64;
                    return Ok(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Io { offset: self.offset, section, source }),
            }
        }
    }
}
