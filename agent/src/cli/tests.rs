//! The command line as a person types it, on loop disks, with images that the real partclone saved.

use super::{
    Cli,
    image::{MANIFEST_FILE, PAGES_FILE},
};
use crate::task::tests::rig::{MIB, Rig, SERIAL, TestImage, tool};
use clap::{CommandFactory, Parser};
use metalcast_formats::layout::SECTOR_BYTES;
use metalcast_shared::{codec, layout::Layout};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// A rig with an image of each kind and a layout in files.
struct Bench {
    rig: Rig,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(image: &Arc<TestImage>) -> Self {
        let (rig, dir) = (Rig::new(image.clone()), tempfile::tempdir().unwrap());
        let Layout { name, boot_mib, swap_mib, reserve_mib, slots, slot_mib } = &rig.layout;
        let layout = format!(
            "[[layouts]]\nname = \"{name}\"\nboot_mib = {boot_mib}\nswap_mib = {swap_mib}\n\
             reserve_mib = {reserve_mib}\nslots = {slots}\nslot_mib = {slot_mib}\n"
        );
        std::fs::write(dir.path().join("layout.toml"), layout).unwrap();
        let bench = Self { rig, dir };
        std::fs::create_dir(bench.at("debian")).unwrap();
        std::fs::write(bench.at("debian/parts"), "sda1\n").unwrap();
        let saved = format!("debian/sda1.{}-ptcl-img.uncomp", image.partition().filesystem);
        std::fs::write(bench.at(&saved), &image.saved).unwrap();
        std::fs::create_dir(bench.at("revision")).unwrap();
        let ours = bench.at("revision");
        std::fs::write(ours.join(MANIFEST_FILE), codec::encode(&image.signed)).unwrap();
        std::fs::write(ours.join(PAGES_FILE), &image.pages[0]).unwrap();
        let frames = File::create(ours.join(&image.partition().file)).unwrap();
        for chunk in &image.chunks {
            frames.write_all_at(&image.frames[&chunk.index], chunk.offset).unwrap();
        }
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Types a command; `@name` stands for the file of this name.
    fn type_in(&self, line: &str) -> Result<(), String> {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.at(name).display().to_string(),
            None => word.to_owned(),
        };
        let words = std::iter::once("metalcast-agent".into()).chain(line.split(' ').map(word));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.command.run(&self.rig.machine, &Arc::default()).map_err(|error| format!("{error:#}"))
    }

    /// Types a stage, with the disk that it is for.
    fn stage(&self, line: &str) -> Result<(), String> {
        let bytes = self.rig.selector().bytes;
        self.type_in(&format!("{line} --serial {SERIAL} --bytes {bytes} --layout @layout.toml"))
    }

    /// Types a stage that is refused with this text and leaves the disk as it was.
    fn refused(&self, line: &str, expected: &str) {
        let before = self.rig.whole_hash();
        let error = self.stage(line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
        assert!(before == self.rig.whole_hash(), "{line} wrote something: {error}");
    }

    /// What partclone itself restores from the image.
    fn partclone(&self) -> Vec<u8> {
        let (saved, to) = (self.at("saved"), self.at("partclone"));
        std::fs::write(&saved, &self.rig.image.saved).unwrap();
        File::create(&to).unwrap().set_len(self.rig.image.partition().device_bytes).unwrap();
        let mut partclone = Command::new("partclone.restore");
        partclone.args(["-C", "-L"]).arg(self.at("log"));
        tool(partclone.arg("-s").arg(&saved).arg("-O").arg(&to));
        std::fs::read(&to).unwrap()
    }
}

/// Where two copies differ among the blocks that the image has.
fn differences(image: &TestImage, one: &[u8], other: &[u8]) -> Vec<u64> {
    let extents = image.chunks.iter().flat_map(|chunk| chunk.extents(image.partition()));
    let differs = |(at, length): &(u64, usize)| {
        let range = *at as usize..*at as usize + length;
        one[range.clone()] != other[range]
    };
    extents.filter(differs).map(|(at, _)| at).collect()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_whole_deploy_by_hand() {
    for from in ["debian", "revision"] {
        let bench = Bench::new(&TestImage::ordinary());
        let rig = &bench.rig;
        let image = format!("--image @{from} --partition sda1");
        bench.stage("partition").unwrap();
        tool(Command::new("sfdisk").arg("-V").arg(&rig.disk));
        bench.stage("format").unwrap();
        bench.stage(&format!("clear --slot 5 {image}")).unwrap();
        assert!(rig.environment().contains("slot5_state=writing"));
        bench.stage(&format!("fill --slot 5 {image}")).unwrap();

        let device_bytes = rig.image.partition().device_bytes;
        let theirs = bench.partclone();
        let ours = rig.read(rig.slot_start(5), device_bytes);
        assert_eq!(differences(&rig.image, &ours, &theirs), [] as [u64; 0]);
        assert!(!rig.is_startable(5));
        let verify = format!("verify {image} --with {}", rig.node(5).display());
        bench.type_in(&verify).unwrap();

        bench.stage("fix-up --slot 5 --hostname node5").unwrap();
        bench.stage("grow --slot 5").unwrap();
        let said = tool(Command::new("dumpe2fs").arg("-h").arg(rig.node(5)));
        let blocks = rig.plan.partition(5).unwrap().sectors / 8;
        assert!(said.lines().any(|line| line.ends_with(&format!(" {blocks}"))), "{said}");
        assert!(!rig.is_startable(5));
        bench.stage("boot-code --slot 5").unwrap();
        bench.stage("activate --slot 5").unwrap();
        tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
        assert!(rig.is_startable(5) && rig.has_boot_sector(0));
        assert_eq!(rig.cat(5, "/etc/hostname"), "node5\n");
        assert_eq!(rig.environment(), "saved_entry=slot5\n");
        let title = if from == "debian" { "5: debian" } else { "5: lab/debian@7" };
        assert!(rig.cat(1, "/grub/grub.cfg").contains(title));
        let error = bench.type_in(&verify).unwrap_err();
        assert!(error.contains("differ from sda1 of"), "{error}");
    }
}

#[test]
fn nothing_is_lost_without_leave() {
    let bench = Bench::new(&TestImage::ordinary());
    let rig = &bench.rig;
    let image = "--image @debian --partition sda1";
    tool(Command::new("mke2fs").args(["-q", "-F", "-L", "payroll"]).arg(&rig.disk));
    bench.refused("partition", "ext2 \"payroll\"");
    bench.refused("partition", "with --yes it is done all the same");
    let before = rig.whole_hash();
    bench.stage("partition --dry-run").unwrap();
    assert!(before == rig.whole_hash());
    bench.stage("partition --yes").unwrap();
    bench.stage("partition").unwrap();

    tool(Command::new("mke2fs").args(["-q", "-F", "-L", "theirs"]).arg(rig.node(1)));
    bench.refused("format", "holds ext2 \"theirs\"");
    bench.stage("format --yes").unwrap();
    bench.stage("format").unwrap();

    tool(Command::new("mke2fs").args(["-q", "-F", "-L", "mine"]).arg(rig.node(6)));
    bench.refused(&format!("clear --slot 6 {image}"), "slot 6 holds ext2 \"mine\"");
    bench.stage(&format!("clear --slot 6 --dry-run {image}")).unwrap();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(6)));
    bench.stage(&format!("clear --slot 6 --yes {image}")).unwrap();
    assert!(rig.read(rig.slot_start(6), MIB).iter().all(|byte| *byte == 0));
    // What was never completed may be begun again.
    bench.stage(&format!("clear --slot 6 {image}")).unwrap();
}

#[test]
fn stages_are_taken_in_order() {
    let bench = Bench::new(&TestImage::ordinary());
    let image = "--image @debian --partition sda1";
    let [clear, fill] = ["clear", "fill"].map(|stage| format!("{stage} --slot 5 {image}"));
    let fix_up = "fix-up --slot 5 --hostname node5";
    bench.refused("format", "take the stage `partition` first");
    bench.refused(&clear, "does not have layout small");
    bench.stage("partition").unwrap();
    bench.refused(&clear, "no boot partition of Metalcast");
    bench.stage("format").unwrap();
    bench.refused(&fill, "take the stage `clear` first");
    bench.refused(fix_up, "take the stage `fill` first");
    bench.refused("grow --slot 5", "take the stage `fill` first");
    bench.stage(&clear).unwrap();
    bench.refused("boot-code --slot 5", "take the stage `fill` first");
    bench.stage(&fill).unwrap();
    bench.refused("activate --slot 5", "its boot sector is blank");
    bench.stage("boot-code --slot 5").unwrap();
    bench.stage("activate --slot 5").unwrap();
    bench.refused(&fill, "take the stage `clear` first");
    bench.refused(&clear, "slot 5 holds debian");

    bench.refused("activate --slot 4", "layout small has no slot 4");
    bench.refused("fill --slot 5 --image @debian --partition sda2", "there are sda1");
    let bytes = bench.rig.selector().bytes;
    let disk = |serial: &str, bytes: u64| {
        let line = format!("partition --serial {serial} --bytes {bytes} --layout @layout.toml");
        bench.type_in(&line).unwrap_err()
    };
    assert!(disk("OTHER", bytes).contains("no disk with serial OTHER"));
    assert!(disk(SERIAL, bytes + 512).contains("no disk with serial"));
    let nameless = format!("partition --bytes {bytes} --layout @layout.toml");
    assert!(bench.type_in(&nameless).unwrap_err().contains("--serial"));
}

#[test]
fn a_stage_that_broke_off_is_taken_again_and_nothing_can_be_started() {
    let bench = Bench::new(&TestImage::ordinary());
    let rig = &bench.rig;
    let image = "--image @debian --partition sda1";
    bench.stage("partition").unwrap();
    bench.stage("format").unwrap();
    bench.stage(&format!("clear --slot 5 {image}")).unwrap();
    let fill = format!("fill --slot 5 {image}");
    for operations in [3, 9, 15] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        rig.refuse(move |_, _| {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= operations
        });
        let error = bench.stage(&fill).unwrap_err();
        assert!(error.contains("power is gone"), "{error}");
        let first = rig.read(rig.slot_start(5), MIB);
        assert!(first.iter().all(|byte| *byte == 0), "no filesystem after {operations}");
        rig.refuse(|_, _| false);
        bench.refused("boot-code --slot 5", "take the stage `fill` first");
    }
    bench.stage(&fill).unwrap();
    tool(Command::new("e2fsck").args(["-f", "-n"]).arg(rig.node(5)));
}

/// XFS starts in its first sector: its boot sector is in front of the slot.
#[test]
fn an_xfs_by_hand_gets_its_boot_sector_in_the_gap() {
    let bench = Bench::new(&crate::task::tests::xfs());
    let rig = &bench.rig;
    let image = "--image @debian --partition sda1";
    bench.stage("partition").unwrap();
    bench.stage("format").unwrap();
    for stage in ["clear", "fill"] {
        bench.stage(&format!("{stage} --slot 5 {image}")).unwrap();
    }
    bench.stage("fix-up --slot 5 --hostname node5").unwrap();
    bench.stage("boot-code --slot 5").unwrap();
    assert_eq!(rig.read(rig.slot_start(5), 4), b"XFSB");
    assert!(rig.has_boot_sector(rig.gap_start(5)) && !rig.has_boot_sector(rig.slot_start(5)));
    tool(Command::new("xfs_repair").arg("-n").arg(rig.node(5)));
}

#[test]
fn a_revision_and_a_clonezilla_image_are_restored_as_partclone_does() {
    let image = TestImage::ordinary();
    let bench = Bench::new(&image);
    let restore = |from: &str, to: &str, more: &str| {
        bench.type_in(&format!("restore --image @{from} --partition sda1 --to @{to}{more}"))
    };
    let theirs = bench.partclone();
    for (from, to) in [("revision", "a"), ("debian", "b")] {
        restore(from, to, " --dry-run").unwrap();
        assert!(!bench.at(to).exists());
        restore(from, to, " --verify").unwrap();
        let ours = std::fs::read(bench.at(to)).unwrap();
        assert_eq!(ours.len() as u64, image.partition().device_bytes);
        assert_eq!(differences(&image, &ours, &theirs), [] as [u64; 0]);
        bench.type_in(&format!("verify --image @{from} --partition sda1 --with @{to}")).unwrap();
        tool(Command::new("e2fsck").args(["-f", "-n"]).arg(bench.at(to)));
    }
    let error = restore("debian", "a", "").unwrap_err();
    assert!(error.contains("is not blank but holds: ext4") && error.contains("--yes"), "{error}");
    restore("debian", "a", " --yes").unwrap();

    let line = "restore --image @debian --partition sda2 --to @c";
    let error = bench.type_in(line).unwrap_err();
    assert!(error.contains("no partition sda2; there are sda1"), "{error}");
    let spoiled = bench.at("revision").join(&image.partition().file);
    let file = File::options().write(true).open(spoiled).unwrap();
    file.write_all_at(&[0xee; 40], image.chunks[3].offset + 7).unwrap();
    let error = restore("revision", "c", "").unwrap_err();
    assert!(error.contains("not the one in the manifest"), "{error}");
}

#[test]
fn what_is_in_use_is_never_restored_to() {
    let bench = Bench::new(&TestImage::ordinary());
    let rig = &bench.rig;
    let restore = |to: &Path| {
        let to = to.display();
        bench.type_in(&format!("restore --image @debian --partition sda1 --yes --to {to}"))
    };
    let before = rig.whole_hash();
    let backing = std::fs::read_to_string(
        Path::new("/sys/block").join(rig.disk.file_name().unwrap()).join("loop/backing_file"),
    );
    let error = restore(Path::new(backing.unwrap().trim())).unwrap_err();
    assert!(error.contains("is in use by loop"), "{error}");
    assert!(before == rig.whole_hash());

    tool(Command::new("mke2fs").args(["-q", "-F"]).arg(&rig.disk));
    let at = tempfile::tempdir().unwrap();
    let flags = metalcast_sys::mount::MsFlags::MS_RDONLY;
    let mount = metalcast_sys::mount::Mount::new(&rig.disk, at.path(), "ext2", flags, None);
    let mount = mount.unwrap();
    let before = rig.whole_hash();
    let error = restore(&rig.disk).unwrap_err();
    assert!(error.contains("in use"), "{error}");
    assert!(before == rig.whole_hash());
    mount.close().unwrap();
    restore(&rig.disk).unwrap();
    let small = bench.at("small");
    File::create(&small).unwrap().set_len(2 * SECTOR_BYTES).unwrap();
    restore(&small).unwrap();
    assert_eq!(small.metadata().unwrap().len(), rig.image.partition().device_bytes);
}
