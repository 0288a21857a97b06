//! Whole disks, restored by the real Clonezilla in batch (see `tests/src/clonezilla.rs`).

use crate::{AGENT, capture, check_directory, images::sh};
use std::{fs, path::Path};

/// A disk file as a loop device with partitions; detached when dropped.
struct LoopDisk(String);

impl LoopDisk {
    fn attach(dir: &Path, file: &str) -> Self {
        let device = sh(dir, &format!("losetup -f --show {file}"));
        let disk = Self(device.trim().to_owned());
        sh(dir, &format!("partx -d {0} 2> /dev/null || true; partx -a {0} || true", disk.0));
        disk
    }

    fn short(&self) -> &str {
        self.0.trim_start_matches("/dev/")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let script = format!("partx -d {0}; losetup -d {0}", self.0);
        let _ = std::process::Command::new("sh").args(["-c", &script]).output();
    }
}

/// Runs Clonezilla, which sees the loop devices of these disks and no other: it probes all that it sees,
/// again whenever there is a new one, and other tests have some of their own. It is told that the second
/// disk has the partitions of the first, as it will.
fn ocs_sr(repository: &Path, disks: [&LoopDisk; 2], arguments: &str) -> String {
    let batch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/src/clonezilla/batch.sh");
    let options = "-or /mnt -nogui -batch -p true -t -iui -irhr -ius -cb";
    let [first, second] = disks.map(|disk| &disk.0);
    let command = format!(
        "for node in /dev/loop[0-9]*; do
             case $node in
             {first} | {first}p* | {second} | {second}p*) ;;
             *) mount --bind /dev/null $node ;;
             esac
         done
         seen={}/../seen
         awk -v a={} -v b={} '
             NR < 3 || $4 == a || $4 == b || $4 ~ \"^\" a \"p\"
             $4 ~ \"^\" a \"p\" {{ sub(a, b); print }}' /proc/partitions > $seen
         mount --bind $seen /proc/partitions
         sh {} {} ocs-sr {options} {arguments} < /dev/null 2>&1",
        repository.display(),
        disks[0].short(),
        disks[1].short(),
        batch.display(),
        repository.display()
    );
    let log = sh(Path::new("/"), &command);
    assert!(log.contains("Checking B2SUMS for image"), "the checksums were not checked: {log}");
    log
}

/// Names, types, modes, sizes and contents of all files.
fn files(dir: &Path, device: &str) -> String {
    sh(
        dir,
        &format!(
            "mkdir -p mnt; mount -o ro {device} mnt; cd mnt
             find . -printf '%p %y %m %s %l\\n' | sort
             find . -type f -print0 | sort -z | xargs -0 sha256sum"
        ),
    )
}

/// Ids and labels of everything on a disk, by partition.
fn ids(disk: &LoopDisk) -> String {
    let script = format!(
        "for node in {0}p*; do echo ${{node#{0}}} $(blkid -p -o value -s TYPE -s UUID -s LABEL \
         -s PART_ENTRY_UUID -s PART_ENTRY_TYPE $node); done",
        disk.0
    );
    sh(Path::new("/"), &script)
}

/// Makes a disk, has it saved, compares the table's files with those of the real tools, and has
/// Clonezilla restore it onto a larger disk and one partition of it alone.
fn check_disk(table: &str, make: &str, data: u32) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    sh(
        dir,
        &format!(
            "truncate -s 300M first; truncate -s 320M second; mkdir repository content
             cat > table <<'END'\n{table}\nEND
             sfdisk -q first < table
             cp -r /usr/share/perl5/Debconf content/tree; head -c 12M /dev/urandom > content/random"
        ),
    );
    let first = LoopDisk::attach(dir, "first");
    let make = make.replace("DISK", &first.0);
    sh(dir, &format!("{{ {make}; }} > make.log 2>&1"));
    let (from, name) = (&first.0, first.short());
    let said = capture(dir, &format!("--from {from} --to repository/saved")).unwrap();
    println!("{said}");
    let saved = dir.join("repository/saved");
    let directory = check_directory(&saved);
    assert_eq!(directory.disks, [name]);

    // The table as sfdisk and parted print it.
    let read = |file: &str| fs::read_to_string(saved.join(format!("{name}-{file}"))).unwrap();
    assert_eq!(read("pt.sf"), sh(dir, &format!("sfdisk -d {from}")));
    let words = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("Model:"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let parted = sh(dir, &format!("parted -s {from} unit s print"));
    assert_eq!(words(&read("pt.parted")), words(&parted));

    let before = files(dir, &format!("{from}p{data}"));
    assert!(before.contains("./random"));
    let second = LoopDisk::attach(dir, "second");
    let log = ocs_sr(
        &dir.join("repository"),
        [&first, &second],
        &format!("-k0 -j2 restoredisk saved {}", second.short()),
    );
    sh(dir, &format!("partx -d {0} 2> /dev/null || true; partx -a {0}", second.0));
    let copy = format!("{}p{data}", second.0);
    assert_eq!(files(dir, &copy), before, "{log}");
    assert_eq!(ids(&second), ids(&first), "{log}");
    // FAT is not mounted by every kernel; its files are compared by mtools.
    let tree = |disk: &LoopDisk| {
        sh(
            dir,
            &format!(
                "rm -rf out; mkdir out; cd out; mcopy -i {}p1 -s -n '::*' .
                 find . -type f -print0 | sort -z | xargs -0 sha256sum",
                disk.0
            ),
        )
    };
    assert_eq!(tree(&second), tree(&first), "{log}");

    // One partition alone, onto what was emptied.
    sh(dir, &format!("blkdiscard -f -z {copy}"));
    let log = ocs_sr(
        &dir.join("repository"),
        [&first, &second],
        &format!("-k -f {name}p{data} restoreparts saved {}p{data}", second.short()),
    );
    assert_eq!(files(dir, &copy), before, "{log}");
}

#[test]
fn clonezilla_restores_an_mbr_disk() {
    check_disk(
        "label: dos
start=2048,size=20M,type=b,bootable
type=5,start=43008
start=45056,size=64M,type=83
size=16M,type=82",
        "mkfs.vfat -F 16 -n SHARED DISKp1; mcopy -i DISKp1 -s content/tree ::
         mke2fs -q -t ext4 -L data -d content DISKp5; mkswap -L exchange DISKp6",
        5,
    );
}

#[test]
fn clonezilla_restores_a_gpt_disk() {
    check_disk(
        "label: gpt
start=2048,size=40M,type=U,name=\"EFI System\"
size=1M,type=21686148-6449-6E6F-744E-656564454649
size=100M,type=L,name=\"a root\",attrs=\"RequiredPartition GUID:60\"
size=60M,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
size=30M,type=S",
        "mkfs.vfat -F 32 -n EFI DISKp1; mcopy -i DISKp1 -s content/tree ::
         head -c 1M /dev/urandom > DISKp2
         mke2fs -q -t ext4 -L root -d content DISKp3; mkfs.ntfs -q -f -L win DISKp4
         mkswap -L exchange DISKp5",
        3,
    );
}

#[test]
fn a_disk_of_which_something_is_mounted_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    sh(dir, "truncate -s 64M first; printf 'label: dos\\nstart=2048,type=83\\n' | sfdisk -q first");
    let disk = LoopDisk::attach(dir, "first");
    let script = format!(
        "mke2fs -q -t ext4 {0}p1; mkdir mnt; mount {0}p1 mnt; echo one > mnt/one; sync -f mnt
         for from in {0} {0}p1 first; do
             ! {AGENT} capture --from $from --to saved --name sda > log 2>&1
             grep -q 'in use' log || {{ cat log; exit 1; }}
         done
         test ! -e saved; test ! -e saved.unfinished
         {AGENT} capture --force --from {0} --to saved --name sda
         umount mnt",
        disk.0
    );
    let said = sh(dir, &script);
    assert!(said.contains("sda1: ext4, 63 of 63 MiB are saved"), "{said}");
    check_directory(&dir.join("saved"));
}
