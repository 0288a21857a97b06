//! tar archives: they come out of the store as they went in, by stock tools, and damaged ones do not go in.

use crate::{Store, name, source::sh, with_causes};
use metalcast_controller::images::{
    DiskOptions, ExportOptions, ImageState, ImportError, Packing, Progress, UploadError,
    UploadOrder,
};
use metalcast_formats::chunk::{PlainChunk, sealer};
use metalcast_shared::{
    id::Revision,
    manifest::{CHUNK_BYTES, Run},
    upload::{Survey, SurveyPartition},
};
use std::{
    cell::RefCell,
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A small system, and archives of it, in a directory of their own.
struct Archives(TempDir);

impl Archives {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sh(
            dir.path(),
            "mkdir -p root/boot root/etc; echo kernel > root/boot/vmlinuz-6.1; echo host > root/etc/hostname
             head -c 3M /dev/urandom > root/random; seq 1 400000 > root/text; ln root/text root/zz-text
             ln -s text root/link; truncate -s 30M root/sparse; echo x >> root/sparse; mkfifo root/fifo
             tar -cf plain.tar --format=pax --sparse -C root .
             gzip -k plain.tar; xz -k plain.tar; zstd -qk plain.tar; bzip2 -k plain.tar",
        );
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Store {
    fn import_archive(&self, path: &Path) -> Result<Revision, ImportError> {
        self.import_disk(path, &DiskOptions::default())
    }
}

#[test]
fn archives_of_any_compression_are_what_tar_lists_again() {
    let (store, archives) = (Store::new(), Archives::new());
    let expected = sh(archives.0.path(), "tar -tvf plain.tar --full-time");
    for name in ["plain.tar", "plain.tar.gz", "plain.tar.xz", "plain.tar.zst", "plain.tar.bz2"] {
        let revision = store.import_archive(&archives.file(name));
        let revision = revision.unwrap_or_else(|error| panic!("{name}: {}", with_causes(&error)));
        let dir = store.path(&revision);
        let list =
            sh(&dir, "b2sum --quiet -c B2SUMS && zstd -dc system.tar.zst | tar -tv --full-time");
        assert_eq!(list, expected, "{name}");
        let report = store.images.check(&revision, &|_| {}).unwrap();
        assert!(report.damage.is_empty(), "{report:?}");
        let index = store.images.archive_index(&revision, "system").unwrap();
        assert_eq!(index.kernels, ["vmlinuz-6.1"]);
        let (manifest, _) = store.images.manifest(&revision).unwrap();
        let chunks = store.chunks(&revision, &manifest.partitions[0]);
        assert!(chunks.len() > 5, "{}", chunks.len());
        assert!(manifest.partitions[0].device_bytes > 66 << 20);
    }
    let ready = |state: &ImageState| matches!(state, ImageState::Ready { partitions, .. } if partitions[0].filesystem == "tar");
    assert!(store.images.list().unwrap().iter().all(|image| ready(&image.state)));
    let own = store.path(&Revision { image: name(), number: 1 }).join("system.tar.zst");
    store.import_archive(&own).expect("our own frames are a zstd stream like any other");
}

#[test]
fn a_stream_is_imported_as_it_comes_and_says_how_far_it_is() {
    let (store, archives) = (Store::new(), Archives::new());
    for name in ["plain.tar", "plain.tar.gz"] {
        let mut stream = File::open(archives.file(name)).unwrap();
        let seen = RefCell::new(Vec::new());
        let note = |progress: Progress| seen.borrow_mut().push(progress);
        let revision =
            store.images.import_stream(&mut stream, &DiskOptions::default(), &crate::name(), &note);
        let (manifest, _) = store.images.manifest(&revision.unwrap()).unwrap();
        assert!(manifest.provenance.contains("standard input"), "{}", manifest.provenance);
        let seen = seen.into_inner();
        assert!(seen.is_sorted_by_key(|progress| progress.done_bytes) && seen.len() > 4);
        let bytes = archives.file(name).metadata().unwrap().len();
        assert!(seen.last().unwrap().done_bytes <= bytes);
    }
}

#[test]
fn what_is_damaged_or_no_archive_is_refused_and_leaves_nothing() {
    let (store, archives) = (Store::new(), Archives::new());
    sh(
        archives.0.path(),
        "head -c 4000000 plain.tar > cut.tar; head -c 3000000 plain.tar.gz > cut.tar.gz
         cp plain.tar bad.tar; printf X | dd of=bad.tar bs=1 seek=5 conv=notrunc status=none
         (tar -cf - -P --transform 's,^,../,' root/text) > leads-out.tar
         tar -cf twice.tar root/text; tar -cf - root/text >> twice.tar
         gzip -c root/text > text.gz; cp plain.tar.zst flipped.tar.zst
         printf XXXX | dd of=flipped.tar.zst bs=1 seek=2000000 conv=notrunc status=none
         touch disk.ovf; tar -cf appliance.ova disk.ovf",
    );
    for (name, why) in [
        ("cut.tar", "ends at byte"),
        ("cut.tar.gz", "it was cut off"),
        ("bad.tar", "checksum of the header is wrong"),
        ("leads-out.tar", "leads out of the archive"),
        ("twice.tar", "more follows its end mark"),
        ("flipped.tar.zst", "byte"),
        ("text.gz", "compressed with gzip"),
        ("appliance.ova", "perhaps an OVA"),
    ] {
        let path = archives.file(name);
        let before = store.entries();
        let error = with_causes(&store.import_archive(&path).expect_err(name));
        assert!(error.contains(why) && error.contains(name), "{name}: {error}");
        assert_eq!(store.entries(), before);
    }
    let options = DiskOptions { exact: true, ..DiskOptions::default() };
    let error = store.import_disk(&archives.file("plain.tar"), &options).unwrap_err();
    assert!(matches!(error, ImportError::ArchiveOptions(_)), "{error}");
}

#[test]
fn an_export_is_an_archive_with_checksums_and_damage_in_the_store_is_found() {
    let (store, archives) = (Store::new(), Archives::new());
    let revision = store.import_archive(&archives.file("plain.tar.xz")).unwrap();
    for (packing, file) in [
        (Packing::Gzip, "system.tar.gz"),
        (Packing::Zstd, "system.tar.zst"),
        (Packing::None, "system.tar"),
    ] {
        let to = archives.file(&format!("exported-{file}"));
        let options = ExportOptions { packing, ..ExportOptions::default() };
        store.images.export(&revision, &to, options, &|_| {}).unwrap();
        sh(&to, &format!("md5sum --quiet -c MD5SUMS && mkdir out && tar -xf {file} -C out"));
        sh(
            archives.0.path(),
            &format!("diff -r --no-dereference root exported-{file}/out -x fifo"),
        );
    }
    let file = store.path(&revision).join("system.tar.zst");
    let mut bytes = fs::read(&file).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let report = store.images.check(&revision, &|_| {}).unwrap();
    assert!(report.damage.iter().any(|what| what.contains("chunk")), "{report:?}");
    store.images.remove(&revision).unwrap();
}

/// Sends the bytes of an archive as an agent does.
fn upload(store: &Store, archive: &[u8]) -> Result<Revision, UploadError> {
    let order = UploadOrder { image: name(), provenance: "slot 5".into(), disk_bytes: 1 << 40 };
    let partition = SurveyPartition {
        name: "system".into(),
        filesystem: "tar".into(),
        block_bytes: 512,
        total_blocks: 7,
        used_blocks: 7,
        device_bytes: 7 * 512,
    };
    let survey = Survey { agent: "1".into(), partitions: vec![partition], ..Survey::default() };
    let mut upload = store.images.begin_upload(order, survey)?;
    let mut seal = sealer();
    for (index, data) in (0..).zip(archive.chunks(CHUNK_BYTES as usize)) {
        let runs = vec![Run { start: 0, count: (data.len() / 512) as u32 }];
        let sealed = seal(PlainChunk { index, runs, data: data.to_vec() }).unwrap();
        assert_eq!(upload.position()?.chunks, index);
        assert!(upload.chunk(sealed.chunk.clone(), b"other bytes".to_vec()).is_err());
        upload.chunk(sealed.chunk, sealed.frame)?;
    }
    store.images.publish(upload)
}

#[test]
fn what_an_agent_sends_is_kept_as_an_import_would_keep_it_and_anything_else_is_not() {
    let (store, archives) = (Store::new(), Archives::new());
    let imported = store.import_archive(&archives.file("plain.tar")).unwrap();
    let plain = fs::read(archives.file("plain.tar")).unwrap();
    let sent = upload(&store, &plain).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    let file = |revision: &Revision| fs::read(store.path(revision).join("system.tar.zst")).unwrap();
    assert!(file(&imported) == file(&sent));
    let parts = |revision: &Revision| store.images.manifest(revision).unwrap().0.partitions;
    assert_eq!(parts(&imported), parts(&sent));
    assert!(store.images.check(&sent, &|_| {}).unwrap().damage.is_empty());

    let more = [&plain[..], &vec![0; 4 << 20], &plain[..]].concat();
    for wrong in [&plain[..plain.len() / 2 / 512 * 512], &more, &[0xff; 512 << 3], &[]] {
        let error = upload(&store, wrong).unwrap_err();
        assert!(matches!(error, UploadError::Archive(_) | UploadError::Sent(_)), "{error}");
    }
    assert_eq!(store.images.list().unwrap().len(), 2);
}
