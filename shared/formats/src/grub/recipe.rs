//! How the core images are built, for whoever runs `grub-mkimage` at build time.
//!
//! A core holds every module it will ever use and a small memory disk with its first script. The early
//! configuration only switches to that script: it is read by GRUB's rescue parser, which knows no `if`.
//!
//! The slot core never loads a module from the slot. The slot's own `/boot/grub/i386-pc` belongs to
//! whatever GRUB version is installed there, and a module of another version crashes the machine. So
//! `$prefix` points into the memory disk while the slot's `grub.cfg` is read. What this costs: GRUB's
//! graphical terminal and themes, and `savedefault` (a saved default is read, a new one is not kept).
//! `next_entry` works. Where another copy of the same image stands in another slot, both have the same
//! file system UUID; therefore there is no `search` in the core, and one of our own that always finds
//! the slot itself.

/// One core image: what to give to `grub-mkimage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Value for `-O`.
    pub format: &'static str,
    /// Value for `-p`: a placeholder for [`super::reprefix`], or the final prefix.
    pub prefix: &'static str,
    /// Content of the file for `-c`.
    pub early_config: &'static str,
    /// Content of the file for `-m`, a tar archive.
    pub memdisk: Vec<u8>,
    /// Modules, in order.
    pub modules: &'static [&'static str],
}

/// The core behind the MBR. Its prefix is the boot partition, number 1, of the disk it starts from.
pub fn disk_core() -> Recipe {
    Recipe {
        format: FORMAT,
        prefix: "(,msdos1)/grub",
        early_config: EARLY_CONFIG,
        memdisk: tar(&[(SCRIPT_NAME, script(DISK_SCRIPT).as_bytes())]),
        modules: DISK_MODULES,
    }
}

/// The core of every slot, to be given its slot by [`super::reprefix`] with [`slot_prefix`].
pub fn slot_core() -> Recipe {
    let script = script(SLOT_SCRIPT);
    let grubenv = crate::grubenv::GrubEnv::new();
    let files = [(SCRIPT_NAME, script.as_bytes()), ("grubenv", &grubenv.as_bytes()[..])];
    Recipe {
        format: FORMAT,
        prefix: PLACEHOLDER,
        early_config: EARLY_CONFIG,
        memdisk: tar(&files),
        modules: SLOT_MODULES,
    }
}

/// The prefix that makes the slot core start partition `number` of the disk it was loaded from.
pub fn slot_prefix(number: u16) -> String {
    format!("(,msdos{number})/boot/grub")
}

impl Recipe {
    /// Arguments for `grub-mkimage`, given the files that hold [`Self::early_config`] and
    /// [`Self::memdisk`] and the one to be made.
    pub fn mkimage_args(&self, config: &str, memdisk: &str, output: &str) -> Vec<String> {
        // -m sets a prefix of its own, which a -p behind it replaces.
        let options =
            ["-O", self.format, "-m", memdisk, "-p", self.prefix, "-c", config, "-o", output];
        options.iter().chain(self.modules).map(|&arg| arg.to_owned()).collect()
    }
}

const FORMAT: &str = "i386-pc";
/// Longer than any prefix that will be set.
const PLACEHOLDER: &str = "(,msdos5)/boot/grub-placeholder-placeholder-placeholder-placeholder";
const SCRIPT_NAME: &str = "start.cfg";

/// `$root` and `$prefix` come from the prefix in the core.
const EARLY_CONFIG: &str = "set home=$prefix\nset prefix=(memdisk)\nnormal (memdisk)/start.cfg\n";

const DISK_MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "ext2",
    "memdisk",
    "tar",
    "normal",
    "configfile",
    "chain",
    "loadenv",
    "serial",
    "terminal",
    "echo",
    "test",
    "regexp",
    "sleep",
    "reboot",
    "boot",
    "minicmd",
    "ls",
    "cat",
];

/// What the `grub.cfg` of Debian and Ubuntu asks for by `insmod` or by name, with what an
/// operator needs at the prompt. `gfxterm` is left out on purpose: Debian's script switches the output
/// to it, away from the serial line, and keeps the text console where it is missing.
const SLOT_MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "part_gpt",
    "ext2",
    "xfs",
    "btrfs",
    "fat",
    "memdisk",
    "tar",
    "normal",
    "configfile",
    "chain",
    "linux",
    "linux16",
    "multiboot",
    "multiboot2",
    "loadenv",
    "serial",
    "terminal",
    "echo",
    "test",
    "true",
    "regexp",
    "sleep",
    "read",
    "eval",
    "tr",
    "date",
    "datehook",
    "reboot",
    "halt",
    "boot",
    "minicmd",
    "ls",
    "cat",
    "help",
    "probe",
    "cpuid",
    "hwmatch",
    "smbios",
    "keystatus",
    "gzio",
    "xzio",
    "lzopio",
    "zstd",
    "loopback",
    "iso9660",
    "squash4",
    "all_video",
    "video",
    "video_colors",
    "font",
    "png",
    "jpeg",
    "gettext",
    "password_pbkdf2",
];

/// Both consoles: a screen for the one who stands there, a serial line for the lab and for servers.
/// Without a serial port GRUB keeps the screen.
const TERMINAL: &str = r#"serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
"#;

const DISK_SCRIPT: &str = r#"set timeout=5
if [ -f $home/grub.cfg ]; then
  set prefix=$home
  source $prefix/grub.cfg
else
  echo "Metalcast: the boot partition $root has no menu ($home/grub.cfg)."
  echo "Restarting in 20 s."
  sleep 20
  reboot
fi
"#;

const SLOT_SCRIPT: &str = r#"set slot=$root
# A submenu sees exported variables only.
export slot
set timeout=5
set cfgdir=
# The latter three: a btrfs with its system in a subvolume.
for dir in /boot/grub /boot/grub2 /grub /grub2 /@rootfs/boot/grub /@/boot/grub /root/boot/grub2; do
  if [ -z "$cfgdir" ]; then
    if [ -f ($slot)$dir/grub.cfg ]; then set cfgdir=$dir; fi
  fi
done

function restart {
  echo "Restarting in 20 s."
  sleep 20
  reboot
}

# The slot's system is in the slot. Another slot may hold a copy with the same UUID and label.
function search {
  set search_variable=root
  for argument in "$@"; do
    regexp --set=1:search_variable -- '^--set=(.+)$' "$argument"
  done
  set "$search_variable=$slot"
  true
}

if [ -z "$cfgdir" ]; then
  echo "Metalcast: slot $slot has no grub.cfg."
  restart
fi
if [ -s ($slot)$cfgdir/grubenv ]; then
  load_env -f ($slot)$cfgdir/grubenv saved_entry next_entry
  if [ -n "$next_entry" ]; then
    set next_once="$next_entry"
    set next_entry=
    save_env -f ($slot)$cfgdir/grubenv next_entry
    set next_entry="$next_once"
  fi
fi
set config_directory=($slot)$cfgdir
echo "Metalcast: slot $slot, ($slot)$cfgdir/grub.cfg"
source ($slot)$cfgdir/grub.cfg
menuentry 'Restart this machine' --id metalcast_restart {
  echo "Metalcast: no system of slot $slot was started."
  restart
}
"#;

fn script(body: &str) -> String {
    [TERMINAL, body].concat()
}

/// A ustar archive of small files, the same bytes every time. GRUB's memory disk reads it.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for &(name, content) in files {
        let mut header = [0u8; 512];
        let mut field = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        field(0, name);
        field(100, "0000644\0");
        field(108, "0000000\0");
        field(116, "0000000\0");
        field(124, &format!("{:011o}\0", content.len()));
        field(136, "00000000000\0");
        field(148, "        ");
        field(156, "0");
        field(257, "ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
