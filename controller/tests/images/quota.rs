//! Projects that may not fill the disk.

use crate::{Store, disks::Disk, name, sign, source::Source, with_causes};
use metalcast_controller::images::{DiskOptions, ImageState, Images, ProjectUse, Quotas};

const MIB: u64 = 1 << 20;

#[test]
fn an_import_beyond_the_quota_is_refused_before_or_while_it_is_written() {
    let (disk, directory) = (Disk::new(), Source::new("-a1", "gzip -1c", "gz", ""));
    let mut store = Store::new();
    let limited = |store: &Store, quota: u64| {
        let images = Images::open(store.dir.path(), sign()).unwrap();
        images.with_quotas(Quotas::from([("lab".to_owned(), quota)]))
    };
    let path = disk.dir().join("disk");
    let first = store.import_disk(&path, &DiskOptions::default()).unwrap();
    let ImageState::Ready { stored_bytes, .. } = &store.images.list().unwrap()[0].state else {
        panic!("it is damaged");
    };
    let stored = *stored_bytes;
    let used = store.images.projects().unwrap()[0].used_bytes;
    assert!((stored..stored + 2 * MIB).contains(&used), "{used} for {stored}");

    // Hopeless from the start: nothing is begun.
    store.images = limited(&store, used + MIB);
    let begun = |_| panic!("begun");
    let before = store.entries();
    let figures = format!("project lab has {} of the {} MiB", used / MIB, (used + MIB) / MIB);
    let options = DiskOptions::default();
    for error in [
        store.images.import_file(&path, &options, &name(), &begun).unwrap_err(),
        store.images.import(&directory.image(), &name(), &begun).unwrap_err(),
    ] {
        let error = with_causes(&error);
        assert!(error.contains(&figures) && error.contains("needs about "), "{error}");
    }
    // It may have been compressed well, and was not.
    store.images = limited(&store, used + stored - MIB);
    let error = with_causes(&store.import_disk(&path, &options).unwrap_err());
    assert!(
        error.contains("MiB that it may occupy in the store, and the image is not complete"),
        "{error}"
    );
    assert_eq!(store.entries(), before);

    // Others go on, and so does the project when it has room again.
    let other = "free/debian".parse().unwrap();
    store.images.import_file(&path, &options, &other, &|_| {}).unwrap();
    store.images.remove(&first).unwrap();
    store.import_disk(&path, &options).unwrap();
    let quota_bytes = Some(used + stored - MIB);
    let project = |name: &str, quota_bytes, used_bytes| ProjectUse {
        name: name.to_owned(),
        used_bytes,
        quota_bytes,
    };
    let uses = store.images.projects().unwrap();
    assert_eq!(
        uses,
        [
            project("free", None, uses[0].used_bytes),
            project("lab", quota_bytes, uses[1].used_bytes)
        ]
    );
    assert!(uses.iter().all(|project| project.used_bytes.abs_diff(used) < MIB), "{uses:?}");
}
