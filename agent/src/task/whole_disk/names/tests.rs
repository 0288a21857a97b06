//! Which text is an id, and which only looks like one.

use super::*;

const ROOT: &str = "0a0b0c0d-1111-2222-3333-444455556666";
const NEW: &str = "ffffffff-1111-4222-8333-444455556666";

fn names(resume: bool) -> Names {
    let renamed = [(ROOT, NEW), ("1234-ABCD", "0000-00AA"), ("1234abcd-05", "77777777-05")];
    let pair = |(old, new): (&str, &str)| Renamed { old: old.into(), new: new.into() };
    let resume = resume.then(|| "resume=UUID=5".into());
    Names { renamed: renamed.map(pair).to_vec(), resume }
}

#[test]
fn ids_are_renamed_and_nothing_else() {
    for (before, after) in [
        (format!("UUID={ROOT} / ext4"), format!("UUID={NEW} / ext4")),
        (
            format!("\"/dev/disk/by-uuid/{}\"", ROOT.to_uppercase()),
            format!("\"/dev/disk/by-uuid/{NEW}\""),
        ),
        (format!("gnulinux-simple-{ROOT}' {{"), format!("gnulinux-simple-{NEW}' {{")),
        ("UUID=1234-abcd /boot/efi".into(), "UUID=0000-00AA /boot/efi".into()),
        ("root=PARTUUID=1234ABCD-05 ro".into(), "root=PARTUUID=77777777-05 ro".into()),
    ] {
        assert_eq!(names(false).in_text(&before), after);
    }
    for same in [
        "UUID=0a0b0c0d-1111-2222-1234-abcd55556666",
        "PARTUUID=1234abcd-051",
        "x1234-ABCD",
        "grüße 1234‐ABCD",
        "",
    ] {
        assert_eq!(names(false).in_text(same), same);
    }
}

#[test]
fn kernels_are_told_the_swap_where_nothing_was_said_of_it() {
    let text = format!("menuentry x {{\n\tlinux /vmlinuz root=UUID={ROOT} ro \n\tinitrd /i\n}}\n");
    let new = format!(
        "menuentry x {{\n\tlinux /vmlinuz root=UUID={NEW} ro resume=UUID=5\n\tinitrd /i\n}}\n"
    );
    assert_eq!(names(true).in_menu(&text), new);
    for said in ["linux /v noresume", "linux /v resume=/dev/sda2", "linuxx /v"] {
        assert_eq!(names(true).in_menu(said), said);
    }
}

#[test]
fn labels_are_seen_for_what_they_are() {
    for line in ["LABEL=root / ext4", "linux /v root=LABEL=root", "PARTLABEL=x /x xfs"] {
        assert!(names_a_label(line), "{line}");
    }
    for line in ["# LABEL=root", "UUID=1 / ext4", "GRUB_LABEL=x"] {
        assert!(!names_a_label(line), "{line}");
    }
}
