//! Identity of the machine, from `/sys/class/dmi/id` (SMBIOS, DMTF DSP0134).

use super::attribute;
use metalcast_shared::inventory::Smbios;
use std::path::Path;

/// What vendors leave in fields they should have filled, in lower case. A value that many machines
/// share must not identify one.
const PLACEHOLDERS: [&str; 18] = [
    "none",
    "unknown",
    "default",
    "default string",
    "not specified",
    "not applicable",
    "not available",
    "n/a",
    "na",
    "0",
    "0123456789",
    "123456789",
    "no asset tag",
    "no asset information",
    "system serial number",
    "system product name",
    "system manufacturer",
    "asset-1234567890",
];

/// UUIDs that boards come with by the thousand; the last is AMI's default.
const COMMON_UUIDS: [&str; 3] = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
];

/// Reads it below a sysfs root. Serial and UUID are readable for root only.
pub(super) fn read(sys: &Path) -> Smbios {
    let field = |name: &str| {
        attribute(&sys.join("class/dmi/id").join(name)).filter(|text| !is_placeholder(text))
    };
    Smbios {
        uuid: field("product_uuid")
            .map(|uuid| uuid.to_ascii_lowercase())
            .filter(|uuid| !COMMON_UUIDS.contains(&uuid.as_str())),
        serial: field("product_serial"),
        vendor: field("sys_vendor"),
        product: field("product_name"),
        asset_tag: field("chassis_asset_tag"),
        bios_version: field("bios_version"),
    }
}

fn is_placeholder(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    PLACEHOLDERS.contains(&text.as_str())
        || text.starts_with("to be filled by")
        // Fields filled with one letter: 0000000, xxxxxxx, ......
        || text.bytes().all(|byte| Some(byte) == text.bytes().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_values_are_kept_and_placeholders_are_not() {
        let sys = tempfile::tempdir().unwrap();
        let id = sys.path().join("class/dmi/id");
        std::fs::create_dir_all(&id).unwrap();
        for (name, text) in [
            ("product_uuid", "C0FFEE00-1111-2222-3333-444455556666\n"),
            ("product_serial", "To Be Filled By O.E.M.\n"),
            ("sys_vendor", "QEMU\n"),
            ("product_name", " Standard PC \n"),
            ("chassis_asset_tag", "00000000\n"),
        ] {
            std::fs::write(id.join(name), text).unwrap();
        }
        let expected = Smbios {
            uuid: Some("c0ffee00-1111-2222-3333-444455556666".into()),
            vendor: Some("QEMU".into()),
            product: Some("Standard PC".into()),
            ..Smbios::default()
        };
        assert_eq!(read(sys.path()), expected);
        std::fs::write(id.join("product_uuid"), "03000200-0400-0500-0006-000700080009").unwrap();
        assert_eq!(read(sys.path()).uuid, None);
        assert_eq!(read(Path::new("/nonexistent")), Smbios::default());
    }
}
