//! The menu on the boot partition: one entry per slot, chosen by the environment block.
//!
//! `next_entry` starts a slot once, `saved_entry` every other time; both hold [`slot_id`]s. With
//! neither, with an unknown name, or with a slot that does not start, the machine says so and restarts
//! after a while: a machine that boots from the network first is then back at its controller, and none
//! hangs without a word.

use std::fmt::Write;

/// Longest slot title; longer ones are cut.
const MAX_TITLE_CHARS: usize = 64;

/// Path of the menu below the boot partition's root, as the disk core looks for it.
pub const MENU_PATH: &str = "grub/grub.cfg";
/// Path of the environment block below the boot partition's root.
pub const ENVIRONMENT_PATH: &str = "grub/grubenv";

/// What the menu offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu {
    /// The slots, in the order of the menu.
    pub slots: Vec<MenuSlot>,
    /// How long the menu waits for a key, in seconds.
    pub timeout_s: u32,
    /// How long a message stays before the machine restarts, in seconds. 20 lets it be read.
    pub restart_after_s: u32,
}

/// One slot of the menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MenuSlot {
    /// Partition number.
    pub number: u16,
    /// What the operator calls it; quotes and control characters are dropped.
    pub title: String,
    /// First sector of the gap in front of it: the boot sector's place if the partition has none.
    pub gap_lba: u64,
}

/// The id of a slot's menu entry: the value for `saved_entry` and `next_entry`.
pub fn slot_id(number: u16) -> String {
    format!("slot{number}")
}

/// The environment variable with a slot's state. The value `writing` keeps the slot from being started;
/// unset it when the slot is complete.
pub fn state_variable(number: u16) -> String {
    format!("slot{number}_state")
}

/// The text of `grub.cfg`, for a core made after [`super::recipe::disk_core`].
pub fn grub_cfg(menu: &Menu) -> String {
    let mut text = HEAD.replace("@RESTART_S@", &menu.restart_after_s.to_string());
    let _ = writeln!(text, "set timeout={}", menu.timeout_s);
    // The first entry is what GRUB takes where the default names none.
    text.push_str("menuentry 'Restart (no slot is chosen)' --id restart { no_slot }\n");
    for slot in &menu.slots {
        let (number, title) = (slot.number, title(slot));
        let _ = writeln!(
            text,
            "menuentry '{title}' --id {} {{ start_slot {number} {} \"${{{}}}\" }}",
            slot_id(number),
            slot.gap_lba,
            state_variable(number),
        );
    }
    text
}

fn title(slot: &MenuSlot) -> String {
    let allowed =
        |c: &char| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '\\' | '$') || *c == ' ';
    let title: String = slot.title.chars().filter(allowed).take(MAX_TITLE_CHARS).collect();
    format!("{}: {title}", slot.number)
}

/// `$root` is the boot partition, `$prefix` the directory of this file; both come from the core, so no
/// disk is named here.
const HEAD: &str = r#"# Written by Metalcast. Changes are lost at the next deployment.
regexp --set=1:disk '^([^,]*),' "$root"
if [ -s $prefix/grubenv ]; then load_env; fi
if [ -n "$next_entry" ]; then
  set default="$next_entry"
  set next_entry=
  save_env next_entry
elif [ -n "$saved_entry" ]; then
  set default="$saved_entry"
else
  set default=restart
fi

function restart {
  echo "Restarting in @RESTART_S@ s."
  sleep @RESTART_S@
  reboot
}

function no_slot {
  echo "Metalcast: no slot is chosen on this disk."
  restart
}

# Arguments: number, first sector of its gap, state.
function start_slot {
  if [ "$3" = writing ]; then
    echo "Metalcast: slot $1 is not complete, it was being written."
    restart
  fi
  echo "Metalcast: starting slot $1"
  set root="$disk,msdos$1"
  if chainloader ($disk,msdos$1)+1; then boot; fi
  if chainloader ($disk)$2+1; then boot; fi
  echo "Metalcast: slot $1 has no boot sector, nothing can be started from it."
  restart
}

"#;
