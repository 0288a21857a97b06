//! Archives made by GNU tar and by Python's pax writer, cut into frames and taken apart again, whole and
//! mutated.

use super::*;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
    process::Command,
    sync::OnceLock,
};

/// What an archive holds, by what its frames say.
#[derive(Debug, Default, PartialEq)]
struct Unpacked {
    members: BTreeMap<Vec<u8>, (Kind, Meta, Vec<u8>)>,
    archive: Vec<u8>,
    index: Index,
    frames: usize,
}

/// Frames are taken from the last to the first.
fn unpack(archive: &[u8]) -> Result<Unpacked, TarError> {
    let mut packer = Packer::new(archive);
    let mut frames = Vec::new();
    while let Some(packed) = packer.next_chunk()? {
        assert!(packed.plain.data.len() <= 1 << 20);
        assert_eq!(packed.plain.data.len(), packed.plain.runs[0].count as usize * BLOCK_BYTES);
        frames.push(packed);
    }
    let mut out = Unpacked { frames: frames.len(), ..Unpacked::default() };
    for packed in &frames {
        out.archive.extend_from_slice(&packed.plain.data);
    }
    out.index = frames.last().unwrap().context.index.clone().unwrap();
    let mut contents: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for packed in frames.iter().rev() {
        let framed = with_context(&packed.context, b"frame");
        let context = context_of(&framed).unwrap();
        let mut parts = Parts::new(&context, &packed.plain.data);
        while let Some(part) = parts.next_part()? {
            let (number, path, pieces, data) = match part {
                Part::Member { number, member, data } => {
                    let pieces = member.pieces(0, data.len() as u64);
                    if out.index.superseded.contains(&number) {
                        continue;
                    }
                    let file = contents.entry(member.path.clone()).or_default();
                    if member.kind == Kind::File {
                        assert!(member.file_bytes < 64 << 20, "only what a test can hold");
                        file.resize(member.file_bytes as usize, 0);
                    }
                    let known = (member.kind, member.meta, Vec::new());
                    out.members.insert(member.path.clone(), known);
                    (number, member.path, pieces, data)
                }
                Part::Rest { rest, data } => {
                    (rest.number, rest.path.clone(), rest.pieces.clone(), data)
                }
            };
            if out.index.superseded.contains(&number) {
                continue;
            }
            let file = contents.entry(path).or_default();
            let mut data = data;
            for piece in pieces {
                let (here, behind) = data.split_at(piece.bytes as usize);
                let end = (piece.offset + piece.bytes) as usize;
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[piece.offset as usize..end].copy_from_slice(here);
                data = behind;
            }
        }
    }
    for (path, content) in contents {
        out.members.get_mut(&path).unwrap().2 = content;
    }
    Ok(out)
}

fn tar(dir: &Path, options: &[&str], files: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.args(["--create", "--numeric-owner", "--sort=name"]).args(options);
    let done = command.arg("-C").arg(dir).args(files).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("boot/grub")).unwrap();
    fs::write(at("boot/vmlinuz-6.1.0-9-amd64"), "kernel").unwrap();
    fs::write(at("boot/initrd.img-6.1.0-9-amd64"), "initrd").unwrap();
    fs::write(at("small"), "small").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::hard_link(at("small"), at("zz-link")).unwrap();
    std::os::unix::fs::symlink("/etc/../small", at("symlink")).unwrap();
    let large: Vec<u8> = (0..3_500_001_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(at("large"), large).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
    fs::create_dir(at(&"d".repeat(120))).unwrap();
    fs::write(at(&long), "long").unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"n\xff\nx")), "odd").unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for at in 0..60_u64 {
        sparse.write_all_at(&[at as u8 + 1; 70_000], at * 600_000 / 4096 * 4096).unwrap();
    }
    Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    dir
}

fn check(archive: &[u8], dir: &Path) -> Unpacked {
    let unpacked = unpack(archive).unwrap();
    for (path, (kind, meta, content)) in &unpacked.members {
        let real = dir.join(OsStr::from_bytes(path));
        let facts = real.symlink_metadata().unwrap();
        use std::os::unix::fs::MetadataExt;
        if *kind == Kind::File {
            assert!(*content == fs::read(&real).unwrap(), "{path:?} differs");
        }
        assert_eq!(meta.mode, facts.mode() & 0o7777, "{path:?}");
        assert_eq!((meta.uid, meta.gid), (facts.uid(), facts.gid()));
        assert_eq!(meta.modified.seconds, facts.mtime());
    }
    assert_eq!(unpacked.index.kernels, ["vmlinuz-6.1.0-9-amd64"]);
    assert_eq!(unpacked.index.initrds, ["initrd.img-6.1.0-9-amd64"]);
    unpacked
}

#[test]
fn archives_of_all_formats_come_out_of_their_frames_as_they_were() {
    let dir = tree();
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=pax"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs", "--acls"],
        &["--format=pax", "--pax-option=comment=all,globexthdr.name=g", "--label=volume"],
    ] {
        let archive = tar(dir.path(), options, &["."]);
        let unpacked = check(&archive, dir.path());
        assert!(unpacked.members.len() >= 14, "{options:?}: {:?}", unpacked.members.keys());
        assert!(unpacked.frames > 4, "{options:?}");
        assert_eq!(unpacked.archive, archive[..unpacked.archive.len()], "{options:?}");
        assert_eq!(unpacked.members[&b"zz-link"[..]].0, Kind::HardLink(b"small".to_vec()));
        assert_eq!(unpacked.members[&b"symlink"[..]].0, Kind::Symlink(b"/etc/../small".to_vec()));
        let (_, meta, _) = &unpacked.members[&b"small"[..]];
        let is_pax = options[0] == "--format=pax";
        assert_eq!(meta.modified.nanos > 0, is_pax, "{options:?}");
    }
    for format in ["--format=ustar", "--format=v7"] {
        let archive = tar(dir.path(), &[format], &["boot", "small", "zz-link", "large"]);
        assert_eq!(check(&archive, dir.path()).members.len(), 7, "{format}");
    }
}

#[test]
fn the_last_of_several_members_of_a_name_counts() {
    let dir = tree();
    let first = tar(dir.path(), &[], &["boot", "small", "small"]);
    assert_eq!(unpack(&first).unwrap().members[&b"small"[..]].2, b"small", "a link to itself");
    let file = dir.path().join("archive");
    fs::write(&file, first).unwrap();
    fs::write(dir.path().join("small"), "newer").unwrap();
    let mut append = Command::new("tar");
    append.arg("-rf").arg(&file).arg("-C").arg(dir.path()).args(["boot", "empty", "small"]);
    assert!(append.status().unwrap().success());
    let again = unpack(&fs::read(&file).unwrap());
    // tar has no second name for "small" in mind any more when it appends.
    let again = again.unwrap();
    assert_eq!(again.members[&b"small"[..]].2, b"newer");
    assert!(again.index.superseded.len() >= 4, "{:?}", again.index);
}

/// A header with the right checksum.
fn header(name: &[u8], kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [&members.concat()[..], &[0; 1024]].concat()
}

#[test]
fn hostile_and_contradictory_archives_are_refused_by_name_and_offset() {
    let refused = |members: &[Vec<u8>], why: &str| {
        let error = unpack(&archive(members)).unwrap_err().to_string();
        assert!(error.contains(why), "{error} instead of {why}");
    };
    let ok = header(b"ok", b'0', 0, b"");
    refused(
        &[ok.clone(), header(b"../etc/passwd", b'0', 0, b"")],
        "byte 512, member \"../etc/passwd\"",
    );
    refused(&[header(b"a/../../b", b'0', 0, b"")], "leads out");
    refused(&[ok.clone(), header(b"b", b'1', 0, b"../x")], "leads out");
    refused(&[ok.clone(), header(b"b", b'1', 0, b"nowhere")], "not in the archive");
    refused(&[header(b"l", b'2', 0, b"/etc"), header(b"l/x", b'0', 0, b"")], "no directory");
    refused(
        &[header(b"l/x", b'0', 0, b""), header(b"l", b'2', 0, b"/etc")],
        "replaces a directory",
    );
    refused(&[header(b"a", b'M', 0, b"")], "another volume");
    refused(&[header(b"a", b'Q', 0, b"")], "type 'Q'");
    refused(&[header(b"./", b'2', 0, b"x")], "the directory that everything is in");
    refused(&[header(b"a", b'2', 5, b"x")], "content");
    refused(&[ok.clone(), ok.clone(), vec![0; 512], ok.clone()], "more follows its end mark");
    let mut damaged = ok.clone();
    damaged[0] ^= 1;
    refused(&[ok.clone(), damaged], "byte 512: the checksum");
    let cut = [&header(b"a", b'0', 600, b"")[..], &[1; 512]].concat();
    let error = unpack(&cut).unwrap_err();
    assert!(matches!(error, TarError::CutOff { offset: 512, .. }), "{error}");
    assert!(matches!(unpack(&ok).unwrap_err(), TarError::CutOff { offset: 512, .. }));
    let absolute = unpack(&archive(&[header(b"//etc/./passwd", b'0', 0, b"")])).unwrap();
    assert_eq!(absolute.members.keys().collect::<Vec<_>>(), [b"etc/passwd"]);
    let linked =
        [header(b"a", b'0', 0, b""), header(b"b", b'1', 0, b"a"), header(b"a", b'0', 0, b"")];
    refused(&linked, "a hard link was made to");
    // Headers without end do not take memory without end.
    let labels = vec![header(b"v", b'V', 0, b""); 1600];
    refused(&labels, "headers have more than 768 KiB");
    refused(&[header(b"x", b'x', 1 << 32, b"")], "headers have more than 768 KiB");
}

fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let dir = tree();
        let files = ["boot", "small", "zz-link", "symlink", "sparse", "fifo"];
        let of = |options: &[&str]| tar(dir.path(), options, &files);
        vec![
            of(&["--format=gnu", "--sparse"]),
            of(&["--format=pax", "--sparse", "--sparse-version=0.0"]),
            of(&["--format=pax", "--sparse", "--sparse-version=0.1"]),
            of(&["--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs"]),
        ]
    })
}

/// Puts the checksum of the header at `at` right, so that what lies behind it is reached.
fn mend(archive: &mut [u8], at: usize) {
    let start = at / BLOCK_BYTES * BLOCK_BYTES;
    let Some(block) = archive.get_mut(start..start + BLOCK_BYTES) else { return };
    if !block[257..].starts_with(b"ustar") {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Frames of what is accepted can be taken apart, whatever it is.
    #[test]
    fn mutated_archives_are_refused_or_taken_apart(
        sample in 0_usize..4,
        changes in prop::collection::vec((0_usize..40_000, any::<u8>()), 1..4),
        cut in prop::option::of(0_usize..60_000),
    ) {
        let mut archive = samples()[sample].clone();
        for (at, byte) in changes {
            archive[at] = byte;
            mend(&mut archive, at);
        }
        archive.truncate(cut.unwrap_or(usize::MAX));
        let mut packer = Packer::new(&archive[..]);
        while let Ok(Some(packed)) = packer.next_chunk() {
            let mut parts = Parts::new(&packed.context, &packed.plain.data);
            while let Some(part) = parts.next_part().expect("what was packed can be taken apart") {
                let Part::Member { member, data, .. } = part else { continue };
                let pieces = member.pieces(0, data.len() as u64);
                let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
                prop_assert_eq!(bytes, data.len() as u64);
                prop_assert!(pieces.iter().all(|p| p.offset + p.bytes <= member.file_bytes.max(bytes)));
            }
        }
    }

    #[test]
    fn contexts_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(context) = context_of(&with_context(&Context::default(), &bytes)) {
            let mut parts = Parts::new(&context, &bytes);
            while let Ok(Some(_)) = parts.next_part() {}
        }
        let _ = context_of(&[&[0x5d, 0x2a, 0x4d, 0x18], &bytes[..]].concat());
    }
}

/// Bytes of a path's part, such as no path has too many of.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { byte });
    prop::collection::vec(byte, 1..=255).prop_map(|mut part| {
        if matches!(&part[..], b"." | b"..") {
            part.push(b'x');
        }
        part
    })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(part(), 1..6).prop_map(|parts| parts.join(&b'/'))
}

fn time() -> impl Strategy<Value = Time> {
    let seconds = prop_oneof![0..1_i64 << 31, -(1_i64 << 40)..1 << 40];
    let nanos = prop_oneof![Just(0), 0..1_000_000_000_u32];
    (seconds, nanos).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![0..70_000_u32, 0..u32::MAX];
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let xattrs = prop::collection::btree_map("user[.][ -~]{1,40}", value, 0..3);
    let acl =
        prop::option::of(prop_oneof!["user::rw-,user:1234:r--,group::r--,mask::r--,other::---"]);
    let ids = (id.clone(), id);
    (0..0o10000_u32, ids, time(), prop::option::of(time()), xattrs, acl).prop_map(
        |(mode, (uid, gid), modified, accessed, xattrs, acl)| Meta {
            mode,
            uid,
            gid,
            modified,
            accessed,
            xattrs: xattrs
                .into_iter()
                .map(|(name, value)| Xattr { name: name.into_bytes(), value })
                .collect(),
            access_acl: acl.clone().map(String::into_bytes),
            default_acl: acl.map(String::into_bytes),
        },
    )
}

/// Gaps and lengths of the pieces of a file.
fn map() -> impl Strategy<Value = Option<Vec<Piece>>> {
    prop::option::of(prop::collection::vec((0..1_u64 << 34, 1..1_u64 << 34), 0..40)).prop_map(
        |map| {
            let mut end = 0;
            Some(
                map?.into_iter()
                    .map(|(gap, bytes)| {
                        let piece = Piece { offset: end + gap, bytes };
                        end = piece.offset + bytes;
                        piece
                    })
                    .collect(),
            )
        },
    )
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Fifo),
        path().prop_map(Kind::Symlink),
        path().prop_map(Kind::HardLink),
        (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Character { major, minor }),
        (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Block { major, minor }),
    ];
    (path(), kind, meta(), map(), 0..1_u64 << 36).prop_map(|(path, kind, meta, map, bytes)| {
        let map = map.filter(|_| kind == Kind::File);
        let (data_bytes, file_bytes) = match (&kind, &map) {
            (Kind::File, Some(map)) => {
                let end = map.last().map_or(0, |piece| piece.offset + piece.bytes);
                (map.iter().map(|piece| piece.bytes).sum(), end + bytes)
            }
            (Kind::File, None) => (bytes, bytes),
            _ => (0, 0),
        };
        Member { path, kind, meta, data_bytes, file_bytes, map }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn headers_say_what_was_written_in_them(member in member()) {
        let mut raw = Vec::new();
        write_headers(&member, &mut raw).unwrap();
        prop_assert_eq!(raw.len() % BLOCK_BYTES, 0);
        let (mut headers, mut rest, mut read) = (Headers::default(), &raw[..], Vec::new());
        let next = headers.next(&mut rest, &mut read).unwrap();
        let Next::Member(found) = next else { panic!("{next:?}") };
        prop_assert_eq!(*found, member);
        prop_assert!(rest.is_empty() && read == raw);
    }
}

#[test]
fn what_has_too_many_attributes_or_pieces_is_not_written() {
    let xattr = |n: u8| Xattr { name: vec![n], value: vec![0; 64 << 10] };
    let meta = Meta { xattrs: (1..13).map(xattr).collect(), ..Meta::default() };
    let file = Member {
        path: b"x".to_vec(),
        kind: Kind::File,
        meta,
        data_bytes: 0,
        file_bytes: 0,
        map: None,
    };
    assert_eq!(write_headers(&file, &mut Vec::new()), Err(WriteError::TooLong));
    let map = Some(vec![Piece { offset: 0, bytes: 1 }; MAX_PIECES]);
    let file = Member { meta: Meta::default(), map, ..file };
    assert_eq!(write_headers(&file, &mut Vec::new()), Err(WriteError::Pieces));
}
