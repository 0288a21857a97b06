//! The declaration of a RAM image: TOML files that say what goes in. Where it comes from (which
//! package version, which directory) is the builder's.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// The kernel of a RAM image and its modules; there is one such file for each kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Debian meta package of the kernel.
    pub kernel_package: String,
    /// Kernel modules.
    pub modules: Modules,
    /// Whether busybox is there with `/bin/sh`, for a rescue shell. Nothing starts it.
    #[serde(default)]
    pub rescue_shell: bool,
}

/// Kernel modules of a RAM image; those they depend on follow by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// Names or aliases of modules that a device may ask for. Built-in ones may be named too.
    pub include: Vec<String>,
    /// Directories below the kernel package's `kernel/`, all of whose modules go in.
    #[serde(default)]
    pub dirs: Vec<String>,
    /// Names of modules that are loaded at every start, since no device asks for them.
    #[serde(default)]
    pub load: Vec<String>,
}

/// The tools of every RAM image, whatever its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// Debian packages that programs, libraries and files are taken from.
    pub packages: Vec<String>,
    /// What is unpacked together, by name.
    pub bundle: BTreeMap<String, Bundle>,
}

/// Programs that are unpacked together, when one of them is needed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Whether it lies in the initramfs; the others are fetched from the controller.
    #[serde(default)]
    pub inside: bool,
    /// Programs by absolute path; their libraries follow by themselves.
    pub programs: Vec<String>,
    /// Other files of the packages by absolute path.
    #[serde(default)]
    pub files: Vec<String>,
}

/// Reads a manifest's TOML form; unknown fields are errors.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_manifest_that_is_shipped_has_a_shell() {
        for name in ["cloud", "generic"] {
            let path = format!("{}/manifest/{name}.toml", env!("CARGO_MANIFEST_DIR"));
            let manifest: Manifest = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert!(!manifest.rescue_shell, "{name}: no shell unless somebody asks for it");
        }
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let text = "kernel_package = 'k'\n[modules]\ninclude = []\nloda = []";
        assert!(parse::<Manifest>(text).unwrap_err().message().contains("loda"));
    }
}
