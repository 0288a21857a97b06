//! Images of ntfsclone (its "special image format"), read as if partclone had made them.
//!
//! ```text
//! header | { 0, how many clusters are free } or { 1, a cluster } ... | 1, the end of the device
//! ```
//!
//! Which clusters are used is known only at the end, so an image is read twice: [`NtfsClone::survey`],
//! then [`NtfsClone::open`]. There are no checksums in it. What follows the last cluster, and holds the
//! backup of the boot sector, is taken where it is a whole cluster; partclone's own images never have
//! it. Offsets and meanings were taken from images made by ntfsclone 2022.10.3.

use super::{Bitmap, BitmapMode, Checksums, Header, MAX_BLOCKS, Reader, Version};
use crate::stream::{array, read_whole};
use std::io::{self, Read};

/// First bytes of every image of ntfsclone.
pub const MAGIC: &[u8; 16] = b"\0ntfsclone-image";

/// Size of a cluster, in bytes: what Windows makes.
const CLUSTER_BYTES: std::ops::RangeInclusive<u32> = 512..=2 << 20;

/// From this version on the header says where the clusters begin; before, it was NTFS's own version.
const WITH_OFFSET: u8 = 10;

/// Length of a header without the offset.
const OLD_HEADER_BYTES: u32 = 46;

/// Furthest that the clusters may begin.
const MAX_OFFSET: u32 = 4096;

const CHANGED: &str = "the image was changed while it was read";

/// Which clusters of an image are used, and what its header says.
#[derive(Clone, Debug)]
pub struct NtfsClone {
    header: ImageHeader,
    bitmap: Bitmap,
    numbers: Numbers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ImageHeader {
    cluster_bytes: u32,
    device_bytes: u64,
    clusters: u64,
}

/// A checksum of the numbers of the used clusters, to notice an image that is changed between the
/// two readings.
#[derive(Clone, Debug, Default)]
struct Numbers(crc32fast::Hasher);

/// What follows in an image.
enum Record {
    /// So many clusters that are free.
    Free,
    /// The bytes of the cluster of this number.
    Cluster(u64),
    /// The bytes behind the last cluster.
    Tail,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("ntfsclone: {what}"))
}

impl NtfsClone {
    /// Reads an image to its end. Memory: the bitmap.
    pub fn survey(stream: impl Read) -> io::Result<Self> {
        let mut records = Records::open(stream)?;
        let header = records.header;
        let (mut bits, mut numbers) = (Vec::new(), Numbers::default());
        while let Some(record) = records.next()? {
            let (number, bytes) = match record {
                Record::Free => continue,
                Record::Cluster(number) => (number, header.cluster_bytes),
                Record::Tail => (header.clusters, header.tail_bytes()),
            };
            if number < header.blocks() {
                let at = (number / 8) as usize;
                if bits.len() <= at {
                    bits.resize(at + 1, 0_u8);
                }
                bits[at] |= 1 << (number % 8);
                numbers.take(number);
            }
            records.skip(bytes.into())?;
        }
        bits.resize(header.blocks().div_ceil(8) as usize, 0);
        let bitmap = Bitmap::from_bits(header.blocks(), bits).expect("a bit for each block");
        Ok(Self { header, bitmap, numbers })
    }

    /// Reads the same image again, now its clusters.
    pub fn open<'s>(
        self,
        stream: impl Read + Send + 's,
    ) -> io::Result<Reader<Box<dyn Read + Send + 's>>> {
        let records = Records::open(stream)?;
        let Self { header, bitmap, numbers: expected } = self;
        if records.header != header {
            return Err(bad(CHANGED));
        }
        let facts = Header {
            version: Version::V2,
            writer: String::new(),
            filesystem: "NTFS".to_owned(),
            device_bytes: header.device_bytes,
            total_blocks: header.blocks(),
            declared_used_blocks: bitmap.count_used(),
            block_bytes: header.cluster_bytes,
            checksums: Checksums::None,
            bitmap_mode: BitmapMode::Bit,
        };
        let clusters = Clusters { records, expected, numbers: Numbers::default(), left: 0 };
        Ok(Reader::bare(facts, bitmap, Box::new(clusters)))
    }
}

impl Numbers {
    fn take(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn sum(&self) -> u32 {
        self.0.clone().finalize()
    }
}

impl ImageHeader {
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        if !read_whole(stream, &mut magic)? || magic != *MAGIC {
            return Err(bad("it does not begin as an image of ntfsclone does"));
        }
        let [major, _minor] = array(stream)?;
        let cluster_bytes = u32::from_le_bytes(array(stream)?);
        let device_bytes = u64::from_le_bytes(array(stream)?);
        let clusters = u64::from_le_bytes(array(stream)?);
        // Clusters in use, which are counted here.
        let _: [u8; 8] = array(stream)?;
        if !CLUSTER_BYTES.contains(&cluster_bytes) || !cluster_bytes.is_power_of_two() {
            return Err(bad("clusters have a size that is not possible; it is damaged"));
        }
        // One more block than clusters.
        if clusters == 0 || clusters >= MAX_BLOCKS {
            return Err(bad("the number of clusters is not possible; it is damaged"));
        }
        if clusters * u64::from(cluster_bytes) > device_bytes {
            return Err(bad("there are more clusters than the device has room for; it is damaged"));
        }
        if major >= WITH_OFFSET {
            let offset = u32::from_le_bytes(array(stream)?);
            let rest = offset
                .checked_sub(OLD_HEADER_BYTES + 4)
                .filter(|_| offset <= MAX_OFFSET)
                .ok_or_else(|| bad("the clusters begin where they cannot; it is damaged"))?;
            skip(stream, rest.into())?;
        }
        Ok(Self { cluster_bytes, device_bytes, clusters })
    }

    /// Bytes behind the last cluster that an image has.
    fn tail_bytes(&self) -> u32 {
        let behind = self.device_bytes - self.clusters * u64::from(self.cluster_bytes);
        u32::try_from(behind).unwrap_or(u32::MAX).min(self.cluster_bytes)
    }

    /// Blocks that partclone's format has room for: not where the last one is cut off.
    fn blocks(&self) -> u64 {
        self.clusters + u64::from(self.tail_bytes() == self.cluster_bytes)
    }
}

struct Records<R> {
    stream: R,
    header: ImageHeader,
    /// The cluster that the next record is about.
    at: u64,
}

impl<R: Read> Records<R> {
    fn open(mut stream: R) -> io::Result<Self> {
        let header = ImageHeader::read(&mut stream)?;
        Ok(Self { stream, header, at: 0 })
    }

    /// The next record, after which its bytes are to be read; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Record>> {
        let mut command = [0];
        let is_there = read_whole(&mut self.stream, &mut command)?;
        let clusters = self.header.clusters;
        match (is_there, command) {
            (false, _) if self.at < clusters => Err(io::ErrorKind::UnexpectedEof.into()),
            // Old images end with the last cluster.
            (false, _) => Ok(None),
            (true, [0]) if self.at < clusters => {
                let count = u64::from_le_bytes(array(&mut self.stream)?);
                if count > clusters - self.at {
                    return Err(bad("more clusters are free than are left; it is damaged"));
                }
                self.at += count;
                Ok(Some(Record::Free))
            }
            (true, [1]) if self.at < clusters => {
                self.at += 1;
                Ok(Some(Record::Cluster(self.at - 1)))
            }
            (true, [1]) if self.at == clusters && self.header.tail_bytes() > 0 => {
                self.at += 1;
                Ok(Some(Record::Tail))
            }
            (true, _) => Err(bad("an unknown command, or data behind the end; it is damaged")),
        }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        skip(&mut self.stream, bytes)
    }
}

fn skip(stream: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The used clusters of an image, one after the other.
struct Clusters<R> {
    records: Records<R>,
    expected: Numbers,
    numbers: Numbers,
    /// Bytes of the cluster that are still to be read.
    left: usize,
}

impl<R: Read> Clusters<R> {
    /// Goes to the next cluster that is a block; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while let Some(record) = self.records.next()? {
            let number = match record {
                Record::Free => continue,
                Record::Cluster(number) => number,
                Record::Tail => self.records.header.clusters,
            };
            let header = &self.records.header;
            if number >= header.blocks() {
                let bytes = header.tail_bytes();
                self.records.skip(bytes.into())?;
                continue;
            }
            self.numbers.take(number);
            self.left = header.cluster_bytes as usize;
            return Ok(true);
        }
        match self.numbers.sum() == self.expected.sum() {
            true => Ok(false),
            false => Err(bad(CHANGED)),
        }
    }
}

impl<R: Read> Read for Clusters<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || (self.left == 0 && !self.begin()?) {
            return Ok(0);
        }
        let wanted = self.left.min(buffer.len());
        let bytes = self.records.stream.read(&mut buffer[..wanted])?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= bytes;
        Ok(bytes)
    }
}
