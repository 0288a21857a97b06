//! What is fuzzed: every parser that is given bytes from a network, a disk or an image of unknown origin.
//!
//! A target must return whatever the bytes are. It fails by a panic, by memory (the fuzzer's limit) or by time. The
//! programs in `targets` run them under libFuzzer; `tests/tests/corpus.rs` runs them on what was found before.

mod sparse;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metalcast_formats::capture::{self, Blocks, CaptureError, Source, SourceFacts};
use metalcast_formats::partclone::ntfsclone;
use metalcast_formats::stream::{self, Compression, Found};
use metalcast_formats::{
    chunk, disk_file, ext, gpt, grubenv, mbr, ntfs, partclone, probe, tar as archives,
    used as used_blocks, whole_disk,
};
use metalcast_netboot::dhcp::boot::BootSettings;
use metalcast_netboot::dhcp::lease::LeaseTable;
use metalcast_netboot::dhcp::{client, proxy, server};
use metalcast_netboot::mac::Mac;
use metalcast_netboot::{frame, ndp, tftp};
use metalcast_shared::as_left::AsLeft;
use metalcast_shared::boot::{BootConfig, SystemReport};
use metalcast_shared::codec::{self, MAX_MESSAGE_BYTES};
use metalcast_shared::manifest::{Manifest, Page};
use metalcast_shared::node_set::NodeSet;
use metalcast_shared::{to_agent, to_controller};

/// A function that must return.
pub type Target = fn(&[u8]);

/// All targets by the name of their program and corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("dhcp", dhcp),
    ("tftp", tftp),
    ("partclone", partclone),
    ("tables", tables),
    ("used", used),
    ("sidecar", sidecar),
    ("messages", messages),
    ("stream", stream),
    ("tar", tar),
];

/// Decompressed bytes that are looked at: more than any window or block of the inputs covers.
const MAX_CONTENT_BYTES: u64 = 4 << 20;

/// Clusters that an image of ntfsclone may claim here: its bitmap is as large as it says.
const MAX_CLUSTERS: u64 = 1 << 22;

/// Decompressed blocks of an image that are looked at: enough to pass every checksum border.
const MAX_BLOCKS: u32 = 1 << 12;

/// Names of a set that is printed and read back: the largest take a second each here.
const FOLDED_NAMES: usize = 1 << 12;

/// The disk that tables of whole disks are placed on.
const WHOLE_DISK_BYTES: u64 = 1 << 40;

/// Datagrams of a lossy exchange that begin with a length byte: clients send several.
fn datagrams(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (datagram, left) = after.split_at(length);
        rest = left;
        Some(datagram)
    })
    .take(16)
}

/// DHCP packets, at the server, the proxy and the client, alone and in sequence; frames of both.
pub fn dhcp(bytes: &[u8]) {
    let address = |last| Ipv4Addr::new(10, 77, 0, last);
    let config = server::Config {
        server: address(1),
        local: server::Subnet {
            prefix_len: 24,
            range_first: address(100),
            range_last: address(103),
            router: Some(address(1)),
        },
        relayed: vec![server::Subnet {
            prefix_len: 24,
            range_first: Ipv4Addr::new(10, 78, 0, 100),
            range_last: Ipv4Addr::new(10, 78, 0, 101),
            router: Some(Ipv4Addr::new(10, 78, 0, 1)),
        }],
        dns: vec![address(2)],
        domain: Some("lab.example".into()),
        lease_secs: 3600,
        boot: BootSettings {
            http_base: "http://10.77.0.1".into(),
            tftp_server: address(1),
            bios_file: "undionly.kpxe".into(),
            x64_file: "ipxe.efi".into(),
            arm64_file: None,
        },
        reservations: BTreeMap::new(),
    };
    let Ok(proxy) = proxy::Proxy::new(address(1), config.boot.clone()) else { return };
    let Ok(mut server) = server::Server::new(config, LeaseTable::default()) else { return };
    let now = Instant::now();
    let identity = client::Config { mac: Mac([2, 0, 0, 0, 0, 1]), seed: 7, hostname: None };
    let mut client = client::Client::new(identity, now);
    for (second, datagram) in std::iter::once(bytes).chain(datagrams(bytes)).enumerate() {
        let later = now + Duration::from_secs(second as u64);
        if let server::Outcome::Reply(reply) = server.handle(second as u64, datagram) {
            assert!(reply.bytes.len() >= 300, "BOOTP's least");
            client.handle_input(later, &reply.bytes);
        }
        for port in [proxy::Port::Dhcp, proxy::Port::Pxe] {
            let _ = proxy.handle(port, SocketAddrV4::new(address(100), 68), datagram);
        }
        client.handle_input(later, datagram);
        client.handle_timeout(later);
        while client.poll_transmit().is_some() || client.poll_event().is_some() {}
        let _ = frame::parse(datagram);
        let _ = ndp::Solicitation::parse(datagram);
    }
}

/// A read request and what the client says afterwards.
pub fn tftp(bytes: &[u8]) {
    let mut datagrams = datagrams(bytes);
    let Some(first) = datagrams.next() else { return };
    let request = match tftp::Request::parse(first) {
        Ok(request) => request,
        Err(error) => return drop(error.reply()),
    };
    let now = Instant::now();
    let content: Arc<[u8]> = (0..5000_u32).map(|n| n as u8).collect();
    let mut transfer = tftp::Transfer::new(now, &request, content, tftp::Caps::default());
    for (second, datagram) in datagrams.enumerate() {
        let later = now + Duration::from_secs(second as u64);
        for _ in 0..64 {
            let Some(packet) = transfer.poll_transmit() else { break };
            assert!(packet.len() <= 65_507, "UDP's most");
        }
        transfer.handle_input(later, datagram);
        transfer.handle_timeout(later);
        if transfer.poll_event().is_some() {
            return;
        }
    }
}

/// A partclone image, decompressed.
pub fn partclone(bytes: &[u8]) {
    let Ok(mut reader) = partclone::Reader::open(bytes) else { return };
    let mut out = Vec::new();
    if reader.read_blocks(MAX_BLOCKS, &mut out).is_ok() {
        let _ = reader.finish();
    }
    if let Ok(mut chunks) = partclone::Reader::open(bytes).and_then(chunk::Chunks::new) {
        for _ in 0..16 {
            let Ok(Some(plain)) = chunks.next_chunk() else { break };
            assert!(!plain.runs.is_empty());
        }
    }
}

/// A compressed stream, as its first bytes say, or an image of ntfsclone.
pub fn stream(bytes: &[u8]) {
    if let Some(clusters) = bytes.get(30..38).filter(|_| bytes.starts_with(ntfsclone::MAGIC)) {
        let clusters = clusters.try_into().map_or(0, u64::from_le_bytes);
        if clusters <= MAX_CLUSTERS
            && let Ok(survey) = ntfsclone::NtfsClone::survey(bytes)
            && let Ok(reader) = survey.open(bytes)
        {
            assert!(reader.finish().is_ok(), "what was surveyed is read");
        }
    }
    let Found::Known(compression) = Compression::detect(bytes) else { return };
    if let Ok(content) = stream::decompress(bytes, compression) {
        let _ = std::io::copy(&mut content.take(MAX_CONTENT_BYTES), &mut std::io::sink());
    }
}

/// Partition tables, superblocks, GRUB's environment: what lies on a disk.
pub fn tables(bytes: &[u8]) {
    let sectors = bytes.len() as u64 / 512;
    if let Ok(table) = mbr::read(&mut Cursor::new(bytes), sectors) {
        for entry in &table.entries {
            assert!(entry.start_lba <= entry.end_lba());
            let _ = table.partuuid(entry.number);
        }
    }
    if let Ok(table) = gpt::read(&mut Cursor::new(bytes), sectors, 512) {
        assert!(table.entries.iter().all(|entry| entry.start_lba + entry.sectors <= sectors));
    }
    let _ = probe::probe(&mut Cursor::new(bytes), 0, bytes.len() as u64);
    let _ = disk_file::recognise(bytes, bytes.len() as u64);
    let facts = SourceFacts {
        name: "sda".to_owned(),
        model: String::new(),
        bytes: bytes.len() as u64,
        sector_bytes: 512,
        is_partition: false,
    };
    if let Ok(source) = Source::read(bytes, facts)
        && let Ok(planned) = capture::plan(&source, Blocks::UsedOrUnclean)
    {
        let _ = capture::side_files(&source, &planned, |_, _| Ok::<_, CaptureError>(()));
    }
    let _ = ext::Superblock::parse(bytes);
    let _ = whole_disk::found(&mut Cursor::new(bytes), bytes.len() as u64, 512);
    let _ = bytes.first_chunk().map(|sector| ntfs::fitted(sector, 1 << 20));
    if let Ok(environment) = grubenv::GrubEnv::parse(bytes) {
        let _ = environment.variables();
    }
}

/// The used blocks of a filesystem, on a disk of which only some sectors are there.
pub fn used(bytes: &[u8]) {
    let Some(mut disk) = sparse::Sparse::decode(bytes) else { return };
    let bytes = disk.len();
    if let Ok(mut map) = used_blocks::read(&mut disk, bytes) {
        assert!(map.used.blocks() * u64::from(map.block_bytes) <= bytes, "within its partition");
        assert!(map.used.count_used() <= map.used.blocks());
        map.take_every_block();
        assert_eq!(map.used.count_used(), map.used.blocks());
    }
}

/// The manifest beside an image, and its pages; what a deploy left beside it.
pub fn sidecar(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        for partition in &manifest.partitions {
            let _ = partition.used_bytes();
            for number in 0..partition.pages.len().min(4) {
                let _ = partition.decode_page(number, bytes);
            }
        }
        assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    }
    if let Ok(left) = AsLeft::decode(bytes) {
        assert_eq!(AsLeft::decode(&left.encode()).ok(), Some(left));
    }
    if let Ok(page) = codec::decode::<Page>(bytes, MAX_MESSAGE_BYTES) {
        assert_eq!(codec::decode::<Page>(&page.encode(), MAX_MESSAGE_BYTES).ok(), Some(page));
    }
}

/// Everything that controller and agent say to each other, and what operators type.
pub fn messages(bytes: &[u8]) {
    fn message<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
        if let Ok(message) = codec::decode::<T>(bytes, MAX_MESSAGE_BYTES) {
            let again = codec::encode(&message);
            let twice = codec::decode::<T>(&again, MAX_MESSAGE_BYTES).map(|it| codec::encode(&it));
            assert_eq!(twice.ok(), Some(again), "what is written is read as the same");
        }
    }
    message::<to_controller::Open>(bytes);
    message::<to_controller::ToController>(bytes);
    message::<to_agent::ToAgent>(bytes);
    message::<to_agent::EnrolReply>(bytes);
    if let Ok(order) = codec::decode::<to_agent::DeployDisk>(bytes, MAX_MESSAGE_BYTES)
        && let Ok(plan) = whole_disk::plan(&order.whole, WHOLE_DISK_BYTES, 512)
    {
        let ends = plan.partitions.iter().map(|one| one.start_bytes + one.bytes);
        assert!(ends.max().is_none_or(|end| end <= WHOLE_DISK_BYTES), "on the disk");
    }
    message::<to_agent::PageReply>(bytes);
    message::<to_agent::ChunkHeader>(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = serde_json::from_str::<BootConfig>(text);
        let _ = serde_json::from_str::<SystemReport>(text);
        if let Ok(set) = text.parse::<NodeSet>()
            && (1..=FOLDED_NAMES).contains(&set.len())
        {
            assert_eq!(set.to_string().parse().ok(), Some(set));
        }
    }
}

/// A tar archive, cut into frames and taken apart again; the bytes as a frame with a context of its own.
pub fn tar(bytes: &[u8]) {
    let mut packer = archives::Packer::new(bytes);
    while let Ok(Some(packed)) = packer.next_chunk() {
        let mut parts = archives::Parts::new(&packed.context, &packed.plain.data);
        while let Some(part) = parts.next_part().expect("what was packed can be taken apart") {
            let archives::Part::Member { member, data, .. } = part else { continue };
            let pieces = member.pieces(0, data.len() as u64);
            assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), data.len() as u64);
        }
        if let Some(index) = &packed.context.index {
            let _ = index.newest().map(|start| start.menu("UUID=x"));
        }
    }
    if let Ok(context) = archives::context_of(bytes) {
        let mut parts = archives::Parts::new(&context, bytes);
        while let Ok(Some(_)) = parts.next_part() {}
    }
}
