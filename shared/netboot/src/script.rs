//! The iPXE scripts that machines are answered with.
//!
//! Every script says on the console what it does, and every failure ends in `exit`, which hands
//! the machine back to its firmware: a controller that is away keeps nobody from its disk. Text
//! from outside is checked, since iPXE expands `${..}` and acts on `||` and `&&` anywhere in a line.

/// Times the RAM image is tried before the machine goes back to its firmware.
const ATTEMPTS: u32 = 6;
/// Pause between attempts, in seconds.
const RETRY_SECS: u32 = 5;
/// How long a last message stays on the screen, in seconds.
const READ_SECS: u32 = 10;
/// iPXE keeps a whole script in memory and Linux takes 2048 bytes of arguments on x86.
const MAX_FIELD_LEN: usize = 2048;

/// A URL or argument that would not mean in a script what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} cannot stand in an iPXE script")]
pub struct ScriptError {
    /// Which one.
    pub field: &'static str,
    /// Its value.
    pub value: String,
}

/// The parts of a RAM image boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamImage<'a> {
    /// The kernel.
    pub kernel_url: &'a str,
    /// Kernel arguments, `BOOTIF=01-..` among them (see [`crate::mac::bootif`]); the `initrd=` that
    /// UEFI needs are added.
    pub arguments: &'a str,
    /// This boot's own cpio segment. It is loaded first and raw: an uncompressed archive must be at
    /// the front, and iPXE would wrap a file with a name of its own in another archive.
    pub boot_segment_url: &'a str,
    /// The initramfs.
    pub initramfs_url: &'a str,
}

/// Boots the RAM image; retries, then exits.
///
/// On UEFI the kernel's stub loads the two archives itself. With iPXE before 2021 it finds them only
/// by `initrd=` and the file name, which iPXE takes from the URL; later ones hand both over
/// together (LoadFile2) and the arguments are not looked at, as on BIOS.
pub fn ram_image(image: &RamImage<'_>) -> Result<String, ScriptError> {
    let RamImage { kernel_url, arguments, boot_segment_url, initramfs_url } = *image;
    word("kernel URL", kernel_url)?;
    word("boot segment URL", boot_segment_url)?;
    word("initramfs URL", initramfs_url)?;
    line("kernel arguments", arguments)?;
    let segment_name = file_name("boot segment URL", boot_segment_url)?;
    let initramfs_name = file_name("initramfs URL", initramfs_url)?;
    if segment_name == initramfs_name {
        return Err(ScriptError { field: "initramfs URL", value: initramfs_url.to_owned() });
    }
    let stop = ATTEMPTS + 1;
    Ok(format!(
        "#!ipxe
echo Metalcast: loading the RAM image
set attempt:int32 0
:again
inc attempt
iseq ${{attempt}} {stop} && goto give_up ||
imgfree
kernel {kernel_url} {arguments} initrd={segment_name} initrd={initramfs_name} || goto failed
initrd {boot_segment_url} || goto failed
initrd {initramfs_url} || goto failed
boot || goto failed
:failed
echo Metalcast: attempt ${{attempt}} of {ATTEMPTS} failed, next in {RETRY_SECS} s
sleep {RETRY_SECS}
goto again
:give_up
echo Metalcast: the RAM image cannot be loaded, back to the firmware
imgfree
sleep {READ_SECS}
exit 1
"
    ))
}

/// Boots the first disk. BIOS iPXE starts its boot sector; UEFI has no such thing, so there it
/// exits and the firmware goes on with its boot order, which must list the disk next.
pub fn local_disk() -> String {
    "#!ipxe
echo Metalcast: booting the local disk
iseq ${platform} efi && goto firmware ||
sanboot --no-describe --drive 0x80 || goto firmware
:firmware
exit
"
    .to_owned()
}

/// Shows a reason and goes back to the firmware.
pub fn error(reason: &str) -> String {
    let reason = display(reason);
    format!(
        "#!ipxe
echo Metalcast: {reason}
sleep {READ_SECS}
exit 1
"
    )
}

/// The name iPXE gives to what it loads from a URL: the last part of the path.
fn file_name<'a>(field: &'static str, url: &'a str) -> Result<&'a str, ScriptError> {
    let path = url.split('?').next().unwrap_or_default();
    match path.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => Ok(name),
        _ => Err(ScriptError { field, value: url.to_owned() }),
    }
}

/// One word of printable characters: a URL.
fn word(field: &'static str, value: &str) -> Result<(), ScriptError> {
    if value.is_empty() || value.contains(' ') {
        return Err(ScriptError { field, value: value.to_owned() });
    }
    line(field, value)
}

/// Printable characters that iPXE takes as they are.
fn line(field: &'static str, value: &str) -> Result<(), ScriptError> {
    let printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let is_plain = printable
        && value.len() <= MAX_FIELD_LEN
        && !["${", "||", "&&", "\\", "\"", "'", "#"].iter().any(|special| value.contains(special));
    if is_plain {
        return Ok(());
    }
    Err(ScriptError { field, value: value.to_owned() })
}

/// A message for the console: everything iPXE might act on becomes `?`.
fn display(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " .,:;_/+=@()-".contains(c);
    message.chars().take(200).map(|c| if plain(c) { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IMAGE: RamImage<'_> = RamImage {
        kernel_url: "http://10.77.0.1/ram/kernel",
        arguments: "console=ttyS0 BOOTIF=01-52-54-00-77-00-05",
        boot_segment_url: "http://10.77.0.1/ram/segment?mac=52-54-00-77-00-05&b=1",
        initramfs_url: "http://10.77.0.1/ram/initramfs",
    };

    #[test]
    fn the_boot_segment_comes_before_the_initramfs() {
        let script = ram_image(&IMAGE).unwrap();
        assert!(script.starts_with("#!ipxe\n"));
        let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("{text}: {script}"));
        let kernel = at("\nkernel http://10.77.0.1/ram/kernel console=ttyS0 BOOTIF=01-52");
        let segment = at("\ninitrd http://10.77.0.1/ram/segment?mac=52-54-00-77-00-05&b=1 ||");
        let initramfs = at("\ninitrd http://10.77.0.1/ram/initramfs ||");
        assert!(kernel < segment && segment < initramfs);
        assert!(!script.contains("--name"));
        assert!(script.contains(" initrd=segment initrd=initramfs || goto failed"));
    }

    #[test]
    fn what_ipxe_would_act_on_is_refused() {
        for arguments in ["a\nshell", "a || shell", "a && shell", "${net0/mac}", "a\"b", "\u{e9}"] {
            let error = ram_image(&RamImage { arguments, ..IMAGE }).unwrap_err();
            assert_eq!(error.field, "kernel arguments");
        }
        for kernel_url in ["", "http://a b", "http://a\n"] {
            assert!(ram_image(&RamImage { kernel_url, ..IMAGE }).is_err(), "{kernel_url:?}");
        }
        for initramfs_url in ["http://a/b/", "http://10.77.0.2/segment?x"] {
            let error = ram_image(&RamImage { initramfs_url, ..IMAGE }).unwrap_err();
            assert_eq!(error.field, "initramfs URL");
        }
    }

    proptest! {
        #[test]
        fn a_message_never_becomes_a_command(message in "\\PC{0,300}|[\\n|&$\\{\\}a]{0,60}") {
            let script = error(&message);
            prop_assert_eq!(script.lines().count(), 4);
            let shown = script.lines().nth(1).unwrap();
            prop_assert!(!shown.contains('$') && !shown.contains('|') && !shown.contains('&'));
        }
    }
}
