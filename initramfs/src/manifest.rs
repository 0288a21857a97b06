//! The declaration of a RAM image: a TOML file that says what goes in. Where it comes from (which
//! package version, which directory) is the builder's.

use serde::Deserialize;
use std::collections::BTreeMap;

/// What is in a RAM image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Debian meta package of the kernel.
    pub kernel_package: String,
    /// Debian packages that programs, libraries and files are taken from.
    pub packages: Vec<String>,
    /// Kernel modules.
    pub modules: Modules,
    /// Programs by absolute path; their libraries follow by themselves.
    #[serde(default)]
    pub programs: Vec<String>,
    /// Other files of the packages by absolute path.
    #[serde(default)]
    pub files: Vec<String>,
    /// Symbolic links: path to target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Whether `/bin/sh` is there, for a rescue shell. Nothing starts it.
    #[serde(default)]
    pub rescue_shell: bool,
}

/// Kernel modules of a RAM image; those they depend on follow by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// Names or aliases of modules that a device may ask for. Built-in ones may be named too.
    pub include: Vec<String>,
    /// Names of modules that are loaded at every start, since no device asks for them.
    #[serde(default)]
    pub load: Vec<String>,
}

impl Manifest {
    /// Reads the TOML form; unknown fields are errors.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_that_are_shipped_parse() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/manifest");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let manifest = Manifest::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert!(!manifest.rescue_shell, "{path:?}: no shell unless somebody asks for it");
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let text = "kernel_package = 'k'\npackages = []\n[modules]\ninclude = []\nloda = []";
        assert!(Manifest::parse(text).unwrap_err().message().contains("loda"));
    }
}
