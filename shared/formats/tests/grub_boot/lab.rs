//! A disk file installed with this crate, and a QEMU that starts from it.

use metalcast_formats::grub::{self, Files, Menu, MenuSlot, recipe};
use metalcast_formats::grubenv::GrubEnv;
use metalcast_formats::layout::{self, DiskPlan, SECTOR_BYTES};
use metalcast_formats::mbr;
use metalcast_formats::probe::{self, Contents};
use metalcast_shared::layout::Layout;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MODULE_DIRECTORY: &str = "/usr/lib/grub/i386-pc";
const SIGNATURE: u32 = 0x4d43_5442;
const UUID: &str = "7a1f7f0e-5c3b-4a62-9a52-3b1d0c9f4e11";
/// A boot takes 2 to 3 s on an idle machine and five times as long on a busy one.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// An idle menu or a hung boot writes nothing; a full log is a loop.
const MAX_LOG_BYTES: usize = 1 << 20;

/// A slot's script in the manner of grub-mkconfig: modules, a terminal and a saved state that may not
/// be there, and a `search` for a UUID that two slots have. `hello` is a module that is in the slot's
/// directory and not in our core: it must not get loaded.
pub const GRUB_CFG: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ]; then
  set default="${next_entry}"
  set next_entry=
  save_env next_entry
else
  set default="more>test"
fi
function load_video { insmod all_video; }
insmod hello
hello
font=unicode
if loadfont $font ; then insmod gfxterm; fi
terminal_output gfxterm
set timeout_style=menu
set timeout=0
menuentry 'Another system' --id other {
  echo "one-shot entry"
  halt
}
submenu 'More systems' --id more {
menuentry 'Test system' --class gnu-linux --id test {
  load_video
  insmod gzio
  if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
  insmod part_msdos
  insmod ext2
  set root='hd0,msdos20'
  save_env recordfail
  search --no-floppy --fs-uuid --set=root 7a1f7f0e-5c3b-4a62-9a52-3b1d0c9f4e11
  cat /marker
  halt
}
}
"#;

/// What a slot is formatted with.
#[derive(Clone, Copy)]
pub enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
}

pub struct Disk {
    directory: TempDir,
    plan: DiskPlan,
    boot_img: Vec<u8>,
    disk_core: Vec<u8>,
    slot_core: Vec<u8>,
}

impl Disk {
    /// 21 slots as on CentMesh, each sparse and just large enough for mkfs.xfs; boot partition with menu
    /// and empty grubenv, GRUB behind the MBR, no slot filled.
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let layout = Layout {
            name: "test".into(),
            boot_mib: 16,
            swap_mib: 8,
            reserve_mib: 0,
            slots: 21,
            slot_mib: 320,
        };
        let bytes = 7 << 30;
        let plan = layout::compute(&layout, bytes, 512).unwrap();
        let boot_img = fs::read(Path::new(MODULE_DIRECTORY).join("boot.img")).unwrap();
        let slot_core = build_core(directory.path(), &recipe::slot_core());
        let disk_core = build_core(directory.path(), &recipe::disk_core());
        let disk = Self { directory, plan, boot_img, disk_core, slot_core };
        File::create(disk.path()).unwrap().set_len(bytes).unwrap();
        disk.apply(&disk.plan.writes(SIGNATURE).unwrap());
        disk.apply(&grub::disk_writes(&disk.files(), &disk.plan, &disk.sector(0)).unwrap());
        disk.make_boot_partition();
        disk
    }

    fn make_boot_partition(&self) {
        let slots = self.plan.slots().map(|slot| MenuSlot {
            number: slot.number,
            title: format!("Slot '{}'", slot.number),
            gap_lba: slot.gap().unwrap().first_lba,
        });
        let menu = Menu { slots: slots.collect(), timeout_s: 0, restart_after_s: 1 };
        let tree = self.directory.path().join("boot");
        fs::create_dir_all(tree.join("grub")).unwrap();
        fs::write(tree.join(grub::MENU_PATH), grub::grub_cfg(&menu)).unwrap();
        let grubenv = tree.join(grub::ENVIRONMENT_PATH);
        fs::write(grubenv, GrubEnv::new().as_bytes()).unwrap();
        let boot = self.plan.boot();
        self.make_ext4(&tree, boot.start_lba, boot.sectors);
    }

    /// Formats a slot with a system whose `/marker` names the slot, and makes it bootable.
    pub fn install_slot(
        &self,
        number: u16,
        filesystem: Filesystem,
        grub_cfg: &str,
        grubenv: &[(&str, &str)],
    ) {
        let slot = *self.plan.partition(number).unwrap();
        let tree = self.directory.path().join(format!("slot{number}"));
        fs::create_dir_all(tree.join("boot/grub/i386-pc")).unwrap();
        fs::write(tree.join("marker"), format!("reached slot-{number}.\n")).unwrap();
        fs::write(tree.join("boot/grub/grub.cfg"), grub_cfg).unwrap();
        let mut env = GrubEnv::new();
        grubenv.iter().for_each(|(name, value)| env.set(name, value).unwrap());
        fs::write(tree.join("boot/grub/grubenv"), env.as_bytes()).unwrap();
        for module in ["hello.mod", "extcmd.mod", "gfxterm.mod"] {
            let from = Path::new(MODULE_DIRECTORY).join(module);
            fs::copy(from, tree.join("boot/grub/i386-pc").join(module)).unwrap();
        }
        self.apply(&grub::slot_blank_writes(&slot).unwrap());
        match filesystem {
            Filesystem::Ext4 => self.make_ext4(&tree, slot.start_lba, slot.sectors),
            Filesystem::Xfs => self.make_xfs(&tree, slot.start_lba, slot.sectors),
            Filesystem::Btrfs => self.make_btrfs(&tree, slot.start_lba, slot.sectors),
        }
        let content = self.probe(&slot);
        self.apply(&[grub::slot_core_write(&self.files(), &slot).unwrap()]);
        let first_sector = self.sector(slot.start_lba);
        let boot = grub::slot_boot_write(&self.files(), &slot, &first_sector, content);
        self.apply(&[boot.unwrap()]);
        assert_eq!(self.probe(&slot), content, "the file system is as it was");
    }

    fn files(&self) -> Files<'_> {
        Files { boot_img: &self.boot_img, disk_core: &self.disk_core, slot_core: &self.slot_core }
    }

    fn probe(&self, slot: &layout::PlannedPartition) -> probe::Kind {
        let mut disk = File::open(self.path()).unwrap();
        let (start, bytes) = (slot.start_lba * SECTOR_BYTES, slot.sectors * SECTOR_BYTES);
        match probe::probe(&mut disk, start, bytes).unwrap() {
            Contents::Known(found) => found[0].kind,
            contents @ (Contents::Blank | Contents::Unknown) => panic!("{contents}"),
        }
    }

    /// Destroys the boot partition's file system.
    pub fn wipe_boot_partition(&self) {
        self.write(self.plan.boot().start_lba * SECTOR_BYTES, &vec![0; 1 << 20]);
    }

    fn make_ext4(&self, tree: &Path, start_lba: u64, sectors: u64) {
        let offset = format!("offset={}", start_lba * SECTOR_BYTES);
        let kib = format!("{}k", sectors / 2);
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-U", UUID, "-E", &offset, "-d"])
            .arg(tree)
            .arg(self.path())
            .arg(kib));
    }

    fn make_xfs(&self, tree: &Path, start_lba: u64, sectors: u64) {
        let image = self.directory.path().join("xfs");
        File::create(&image).unwrap().set_len(sectors * SECTOR_BYTES).unwrap();
        let at = |path: &str| tree.join(path).display().to_string();
        let prototype = format!(
            "/\n0 0\nd--755 0 0\nmarker ---644 0 0 {}\nboot d--755 0 0\ngrub d--755 0 0\n\
             grub.cfg ---644 0 0 {}\ngrubenv ---644 0 0 {}\n$\n$\n$\n",
            at("marker"),
            at("boot/grub/grub.cfg"),
            at("boot/grub/grubenv"),
        );
        let prototype_path = self.directory.path().join("xfs.proto");
        fs::write(&prototype_path, prototype).unwrap();
        run(Command::new("mkfs.xfs")
            .args(["-q", "-f", "-m"])
            .arg(format!("uuid={UUID}"))
            .arg("-p")
            .arg(&prototype_path)
            .arg(&image));
        self.copy_into(&image, start_lba);
    }

    fn make_btrfs(&self, tree: &Path, start_lba: u64, sectors: u64) {
        let image = self.directory.path().join("btrfs");
        File::create(&image).unwrap().set_len(sectors * SECTOR_BYTES).unwrap();
        run(Command::new("mkfs.btrfs").args(["-q", "-r"]).arg(tree).arg(&image));
        self.copy_into(&image, start_lba);
    }

    /// For tools that cannot format at an offset: the file's non-empty blocks are copied.
    fn copy_into(&self, image: &Path, start_lba: u64) {
        let mut image = File::open(image).unwrap();
        let mut block = vec![0; 1 << 20];
        for index in 0..image.metadata().unwrap().len() >> 20 {
            image.read_exact(&mut block).unwrap();
            if block.iter().any(|&byte| byte != 0) {
                self.write(start_lba * SECTOR_BYTES + (index << 20), &block);
            }
        }
    }

    /// The block's sectors are written in place, as GRUB does it and as an agent may.
    pub fn set_env(&self, name: &str, value: &str) {
        let (offset, mut env) = self.find_env();
        env.set(name, value).unwrap();
        self.write(offset, env.as_bytes());
    }

    pub fn env(&self, name: &str) -> Option<String> {
        self.find_env().1.get(name)
    }

    fn find_env(&self) -> (u64, GrubEnv) {
        let boot = self.plan.boot();
        let mut file = File::open(self.path()).unwrap();
        file.seek(SeekFrom::Start(boot.start_lba * SECTOR_BYTES)).unwrap();
        let mut block = [0u8; 1024];
        for index in 0..boot.sectors / 2 {
            file.read_exact(&mut block).unwrap();
            if let Ok(env) = GrubEnv::parse(&block) {
                return (boot.start_lba * SECTOR_BYTES + index * 1024, env);
            }
        }
        panic!("no grubenv on the boot partition");
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn sector(&self, lba: u64) -> [u8; 512] {
        let mut sector = [0; 512];
        File::open(self.path()).unwrap().read_exact_at(&mut sector, lba * SECTOR_BYTES).unwrap();
        sector
    }

    fn apply(&self, writes: &[mbr::Write]) {
        for write in writes {
            self.write(write.byte_offset, &write.bytes);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Starts the machine and stops it when this text has come over the serial line.
    pub fn boot_until(&self, text: &str) -> Log {
        self.boot(Some(text))
    }

    /// Starts the machine and waits until it restarts itself.
    pub fn boot_until_restart(&self) -> Log {
        self.boot(None)
    }

    fn boot(&self, until: Option<&str>) -> Log {
        let drive = format!("file={},format=raw,if=virtio", self.path().display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "128", "-display", "none", "-monitor", "none"])
            .args(["-nic", "none", "-no-reboot", "-serial", "stdio", "-drive", &drive])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 (package qemu-system-x86) starts");
        let mut machine = Machine(child);
        let mut serial = machine.0.stdout.take().unwrap();
        let (sender, receiver) = mpsc::sync_channel(16);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(read @ 1..) = serial.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + BOOT_LIMIT;
        let mut log = Log(String::new());
        let ended = loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => log.0.push_str(&String::from_utf8_lossy(&bytes)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break true,
                Err(mpsc::RecvTimeoutError::Timeout) => break false,
            }
            assert!(log.0.len() < MAX_LOG_BYTES, "endless output: {log}");
            if until.is_some_and(|text| log.0.contains(text)) {
                break true;
            }
        };
        drop(machine);
        drop(receiver);
        reader.join().unwrap();
        assert!(ended, "nothing more within {BOOT_LIMIT:?}: {log}");
        if let Some(text) = until {
            log.assert_has(text);
        }
        log
    }
}

/// What came over the serial line.
pub struct Log(String);

impl Log {
    pub fn assert_has(&self, text: &str) {
        assert!(self.0.contains(text), "{text:?} is not in: {self}");
    }

    /// What came after this text.
    pub fn after(&self, text: &str) -> Log {
        Log(self.0.split_once(text).unwrap_or_else(|| panic!("no {text:?} in: {self}")).1.into())
    }

    pub fn assert_lacks(&self, text: &str) {
        assert!(!self.0.contains(text), "{text:?} is in: {self}");
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}", self.0.replace('\x1b', "^["))
    }
}

struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn build_core(directory: &Path, recipe: &recipe::Recipe) -> Vec<u8> {
    let path = |name: &str| directory.join(name).display().to_string();
    let (config, memdisk, output) = (path("early.cfg"), path("memdisk.tar"), path("core.img"));
    File::create(&config).unwrap().write_all(recipe.early_config.as_bytes()).unwrap();
    fs::write(&memdisk, &recipe.memdisk).unwrap();
    run(Command::new("grub-mkimage").args(recipe.mkimage_args(&config, &memdisk, &output)));
    fs::read(output).unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
