//! The agent's memory does not grow with the image: nearly 2 TB, in the largest slot that a partition table of the MBR
//! kind can have.

use metalcast_tests::host::Host;
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::rig::Setup;
use metalcast_tests::scene::{Scene, serial};

/// The disk ends just before the table does.
const DISK_BYTES: u64 = 2_190_000_000_000;

/// One slot of 1.99 TB.
const LAYOUT: &str = "
[nodes]
default_layout = \"one\"
[[layouts]]
name = \"one\"
boot_mib = 512
swap_mib = 1024
reserve_mib = 0
slots = 1
slot_mib = 1900000
";

#[test]
fn an_image_of_two_terabytes_needs_no_more_memory_than_others() {
    let sparse = image::sparse().unwrap();
    let disk = |lab: &Lab| Host::blank_disk(lab, &serial(1), DISK_BYTES);
    let setup = Setup { tables: LAYOUT.to_owned(), ..Setup::default() };
    let mut scene = Scene::with("memory", 45, &setup, disk).unwrap();
    scene.import(&sparse.zstd).unwrap();
    let job = scene.deploy(5).unwrap();
    scene.finish(job).unwrap();
    assert_eq!(scene.differences(&sparse.disk, 5).unwrap(), Vec::<String>::new());
}
