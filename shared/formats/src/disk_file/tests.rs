use super::*;

/// A file with these bytes at these places.
fn file(bytes: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; bytes];
    for (at, part) in parts {
        file[*at..at + part.len()].copy_from_slice(part);
    }
    file
}

fn told(bytes: usize, parts: &[(usize, &[u8])]) -> Result<DiskFormat, String> {
    let file = file(bytes, parts);
    recognise(&file[..], file.len() as u64).map_err(|error| error.to_string())
}

/// The footer of a fixed VHD before which there are `bytes` bytes.
fn footer(bytes: u64, kind: u32) -> Vec<u8> {
    let size = bytes.to_be_bytes();
    let mut footer = file(512, &[(0, b"conectix"), (48, &size), (60, &kind.to_be_bytes())]);
    let sum = !footer.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    footer
}

#[test]
fn formats_are_told_by_their_own_marks() {
    for (expected, bytes, parts) in [
        (DiskFormat::Raw, 4096, &[][..]),
        (DiskFormat::Raw, 3, &[(0, &b"QFI"[..])]),
        (DiskFormat::Raw, 512, &[(510, &[0x55, 0xaa])]),
        (DiskFormat::Qcow2, 65536, &[(0, b"QFI\xfb\0\0\0\x03")]),
        (DiskFormat::Qcow2, 100, &[(0, b"QFI\xfb\0\0\0\x02")]),
        (DiskFormat::Vmdk, 65536, &[(0, b"KDMV"), (12, &[1])]),
        (DiskFormat::Vhdx, 65536, &[(0, b"vhdxfile")]),
        (DiskFormat::Vdi, 512, &[(0, b"<<< Oracle"), (64, &[0x7f, 0x10, 0xda, 0xbe])]),
        (DiskFormat::Vhd, 2048, &[(0, &footer(4096, 3)), (1536, &footer(4096, 3))]),
        (DiskFormat::Vhd, 4096 + 512, &[(4096, &footer(4096, 2))]),
        // The cookie at the end of a disk that is no VHD, and a footer of another disk.
        (DiskFormat::Raw, 4096 + 512, &[(4096, b"conectix")]),
        (DiskFormat::Raw, 8192 + 512, &[(8192, &footer(4096, 2))]),
    ] {
        assert_eq!(told(bytes, parts), Ok(expected), "{parts:?}");
    }
}

#[test]
fn what_is_not_in_the_file_or_not_to_be_read_is_refused_by_name() {
    let name_at = 1024_u64.to_be_bytes();
    for (expected, parts) in [
        (
            "qcow2 image with the backing file \"/etc/shadow\",",
            &[
                (0, &b"QFI\xfb\0\0\0\x03"[..]),
                (8, &name_at),
                (16, &[0, 0, 0, 11]),
                (1024, b"/etc/shadow"),
            ][..],
        ),
        (
            "with the backing file of another name",
            &[(0, b"QFI\xfb\0\0\0\x03"), (8, &[0xff; 8]), (16, &[0xff; 4])],
        ),
        ("qcow2 image with an external data file", &[(0, b"QFI\xfb\0\0\0\x03"), (79, &[4])]),
        ("marked as corrupt", &[(0, b"QFI\xfb\0\0\0\x03"), (79, &[2])]),
        ("an encrypted qcow2 image", &[(0, b"QFI\xfb\0\0\0\x02"), (35, &[1])]),
        ("qcow image of version 1", &[(0, b"QFI\xfb\0\0\0\x01")]),
        ("VMDK image with a list of other files", &[(0, b"KDMV")]),
        (
            "VMDK image with a parent",
            &[(0, b"KDMV"), (12, &[1]), (700, b"parentFileNameHint=\"/etc/shadow\"")],
        ),
        ("VHD image with a parent", &[(0, &footer(4096, 4)), (65024, &footer(4096, 4))]),
        ("VHD image that was cut off: it ends at byte 65536", &[(0, &footer(4096, 3))]),
        (
            "VDI image that was cut off: it ends at byte 65536, before the end of its last block at 1048580",
            &[
                (0, b"<<< Oracle"),
                (64, &[0x7f, 0x10, 0xda, 0xbe]),
                (0x158, &[4]),
                (0x17a, &[0x10]),
                (0x184, &[1]),
            ],
        ),
        ("the list of a VMDK's files", &[(0, b"# Disk DescriptorFile\n")]),
        ("compressed with xz; unpack it", &[(0, b"\xfd7zXZ\0")]),
        ("perhaps an OVA", &[(257, b"ustar")]),
        ("image of macOS", &[(65536 - 512, b"koly")]),
    ] {
        let error = told(65536, parts).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(told(0, &[]), Err("it is empty".to_owned()));
}
