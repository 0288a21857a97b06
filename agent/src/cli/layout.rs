//! The layout from a file: the controller's configuration, or a file with only its `[[layouts]]`.

use anyhow::{Context, bail};
use metalcast_shared::layout::Layout;
use serde::Deserialize;
use std::path::Path;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The part of the configuration that is of interest here.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    layouts: Vec<Layout>,
}

/// The layout of this name, or the only one.
pub(super) fn read(path: &Path, name: Option<&str>) -> anyhow::Result<Layout> {
    let load = || -> anyhow::Result<Layout> {
        if path.metadata()?.len() > MAX_FILE_BYTES {
            bail!("it has more than {MAX_FILE_BYTES} bytes");
        }
        choose(&std::fs::read_to_string(path)?, name)
    };
    load().with_context(|| format!("reading the layout from {}", path.display()))
}

fn choose(text: &str, name: Option<&str>) -> anyhow::Result<Layout> {
    let File { mut layouts } = toml::from_str(text)?;
    let names: Vec<String> = layouts.iter().map(|layout| layout.name.clone()).collect();
    if let Some(name) = name {
        layouts.retain(|layout| layout.name == name);
    }
    match (layouts.len(), layouts.pop()) {
        (1, Some(layout)) => Ok(layout),
        _ if names.is_empty() => {
            bail!(
                "it has no [[layouts]]; `metalcast config show` prints those that a controller has"
            )
        }
        _ => bail!("name one of its layouts with --layout-name: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> String {
        format!(
            "[[layouts]]\nname = \"{name}\"\nboot_mib = 64\nswap_mib = 64\nreserve_mib = 0\n\
             slots = 3\nslot_mib = 512\n"
        )
    }

    #[test]
    fn the_controllers_configuration_serves_as_it_is() {
        let one = format!("state_dir = \"/x\"\n[network]\ninterface = \"e\"\n{}", layout("a"));
        assert_eq!(choose(&one, None).unwrap().slots, 3);
        assert_eq!(choose(&one, Some("a")).unwrap().name, "a");
        let two = layout("a") + &layout("b");
        assert_eq!(choose(&two, Some("b")).unwrap().name, "b");
        for (text, name, expected) in [
            (two.as_str(), None, "--layout-name: a, b"),
            (&two, Some("c"), "--layout-name: a, b"),
            ("[network]\n", None, "no [[layouts]]"),
            ("[[layouts]]\nname = \"x\"\n", None, "missing field"),
            ("[[layouts]]\nname = 1\n", None, "invalid type"),
        ] {
            let error = format!("{:#}", choose(text, name).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
