//! Images of the real ntfsclone: what is read of them is what it restores itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use metalcast_formats::{
    chunk::Chunks,
    partclone::{ReadError, ntfsclone::NtfsClone},
};
use proptest::prelude::*;
use std::{fs, io, path::Path, process::Command, sync::LazyLock};
use tempfile::TempDir;

/// Where the header ends and the clusters begin in today's images, and in those of old.
const DATA_AT: usize = 56;
const OLD_DATA_AT: usize = 46;

fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An NTFS of so many sectors on a device of so many bytes: its image, and the device as ntfsclone
/// restores it.
fn volume(device_bytes: u64, sectors: &str, cluster: u32) -> (Vec<u8>, Vec<u8>) {
    let dir: TempDir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        &format!(
            "seq 1 30000 > text; truncate -s {device_bytes} volume
             mkfs.ntfs -q -F -f -c {cluster} volume {sectors} 2> /dev/null
             ntfscp -q volume text text; ntfscp -q volume /bin/sh sh
             ntfsclone -s -o image volume; ntfsclone -r -o restored image"
        ),
    );
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    (read("image"), read("restored"))
}

/// The device as it comes out of our chunks.
fn device(image: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let reader = NtfsClone::survey(image)?.open(image)?;
    let header = reader.header().clone();
    let mut device = vec![0; (header.total_blocks * u64::from(header.block_bytes)) as usize];
    let mut chunks = Chunks::new(reader)?;
    let range = chunks.chunk_blocks() as usize;
    let block = header.block_bytes as usize;
    while let Some(chunk) = chunks.next_chunk()? {
        let mut rest = &chunk.data[..];
        for run in &chunk.runs {
            let start = (chunk.index as usize * range + run.start as usize) * block;
            let (bytes, left) = rest.split_at(run.count as usize * block);
            device[start..start + bytes.len()].copy_from_slice(bytes);
            rest = left;
        }
    }
    chunks.finish()?;
    Ok(device)
}

#[test]
fn what_ntfsclone_saved_is_read_as_it_restores_it() {
    for (device_bytes, sectors, cluster) in [
        // The backup of the boot sector is in a whole cluster, in a part of one, and nowhere near the
        // device's end.
        (40 << 20, "", 4096),
        ((40 << 20) + 1536, "", 4096),
        ((40 << 20) + 512, "", 512),
        (62 << 20, "81923", 4096),
        (62 << 20, "", 65536),
    ] {
        let (image, restored) = volume(device_bytes, sectors, cluster);
        let ours = device(&image).unwrap();
        assert!(restored.len() >= ours.len() && restored.len() - ours.len() < cluster as usize);
        assert!(
            ours == restored[..ours.len()],
            "{device_bytes} {sectors:?} {cluster}: they differ"
        );
        let header =
            NtfsClone::survey(&image[..]).unwrap().open(&image[..]).unwrap().header().clone();
        assert_eq!((header.block_bytes, header.device_bytes), (cluster, device_bytes));
    }
}

#[test]
fn images_of_old_have_a_shorter_header_and_no_backup_of_the_boot_sector() {
    let (image, restored) = volume(40 << 20, "", 4096);
    let without_tail = &image[DATA_AT..image.len() - 4097];
    let mut old = [&image[..OLD_DATA_AT], without_tail].concat();
    (old[16], old[17]) = (3, 1);
    let ours = device(&old).unwrap();
    assert!(ours.len() == restored.len() || ours == restored[..ours.len()], "they differ");
}

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| volume(8 << 20, "", 4096).0);

#[test]
fn what_is_damaged_is_refused() {
    let refuses = |change: &dyn Fn(&mut Vec<u8>), what: &str| {
        let mut image = IMAGE.clone();
        change(&mut image);
        let error = device(&image).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    };
    refuses(&|image| image[3] = b'x', "does not begin as an image of ntfsclone");
    refuses(&|image| image[18] = 7, "clusters have a size that is not possible");
    refuses(&|image| image[36] = 1, "the number of clusters is not possible");
    refuses(&|image| image[31] = 0xff, "more clusters than the device has room for");
    refuses(&|image| image[46] = 40, "the clusters begin where they cannot");
    refuses(&|image| image[DATA_AT] = 2, "an unknown command");
    refuses(&|image| image.push(0), "data behind the end");
    refuses(&|image| image[DATA_AT] = 0, "more clusters are free than are left");

    // Cut off anywhere but before the last record, which images of old do not have.
    for cut in (0..IMAGE.len()).step_by(IMAGE.len() / 97).chain([IMAGE.len() - 1]) {
        let error = device(&IMAGE[..cut]).expect_err("it is cut off");
        assert!(error.is::<io::Error>(), "{error}");
    }

    // Changed between the two readings.
    let survey = NtfsClone::survey(&IMAGE[..]).unwrap();
    let other = volume(8 << 20, "", 8192).0;
    assert!(survey.clone().open(&other[..]).is_err());
    let mut other = IMAGE.clone();
    let gap = 1 + 4096;
    let first_gap = (0..).map(|at| DATA_AT + at * gap).find(|at| other[*at] == 0).unwrap();
    other[first_gap + 1] += 1;
    let changed = survey.open(&other[..]).unwrap().finish();
    assert!(matches!(changed, Err(ReadError::Io { .. })), "{changed:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is damaged, an answer comes.
    #[test]
    fn any_damage_is_answered(
        changes in prop::collection::vec((0usize..20_000, any::<u8>()), 1..8),
    ) {
        let mut image = IMAGE.clone();
        for (at, value) in changes {
            // The highest bytes of the number of clusters would only cost memory.
            if !(32..38).contains(&at) {
                image[at] = value;
            }
        }
        let _ = device(&image);
    }
}
