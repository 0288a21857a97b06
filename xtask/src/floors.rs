//! The floors of the workspace, proved from `cargo metadata`: a crate imports only from a lower floor, never sideways,
//! and holds to the workspace's lints.
//!
//! ```text
//!   4  tests, xtask
//!   3  controller, agent
//!   2  formats, netboot, sys, initramfs
//!   1  shared
//! ```

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};
use metalcast_tests::paths;

/// Every crate of the workspace and its floor. A crate that is not here fails the check.
const FLOORS: [(&str, u8); 9] = [
    ("metalcast-shared", 1),
    ("metalcast-formats", 2),
    ("metalcast-netboot", 2),
    ("metalcast-sys", 2),
    ("metalcast-initramfs", 2),
    ("metalcast-agent", 3),
    ("metalcast-controller", 3),
    ("metalcast-tests", 4),
    ("xtask", 4),
];

/// Imports that the floors forbid, with the reason why they are allowed all the same.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("xtask", "metalcast-tests", "`xtask lab` and the suites drive machines with one framework")];

/// The one crate that may hold unsafe code; its manifest repeats the other lints.
const UNSAFE_ALLOWED: &str = "metalcast-sys";

/// Checks the checkout.
///
/// # Errors
/// Lists every import and every lint setting that breaks a rule.
pub fn check() -> Result<()> {
    let manifest = paths::workspace().join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(&manifest)
        .no_deps()
        .exec()
        .context("asking cargo for the workspace's crates")?;
    let mut faults = forbidden_imports(&imports(&metadata));
    let text = std::fs::read_to_string(&manifest).context("reading the workspace's manifest")?;
    if !section(&text, "workspace.lints.rust").any(|line| line == "unsafe_code = \"forbid\"") {
        faults.push("the workspace's lints do not forbid unsafe code".to_owned());
    }
    for package in &metadata.packages {
        let text = std::fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("reading {}", package.manifest_path))?;
        faults.extend(lint_fault(&package.name, &text));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let mut list = String::new();
    for fault in &faults {
        let _ = write!(list, "\n  {fault}");
    }
    bail!("{} faults:{list}", faults.len());
}

/// One crate's import of another of the workspace, tests' and build scripts' included.
type Import = (String, String);

fn imports(metadata: &Metadata) -> Vec<Import> {
    let ours = |name: &str| metadata.packages.iter().any(|package| package.name.as_str() == name);
    let mut imports = Vec::new();
    for package in &metadata.packages {
        // A crate without imports has a floor too.
        imports.push((package.name.to_string(), package.name.to_string()));
        for dependency in package.dependencies.iter().filter(|d| ours(&d.name)) {
            imports.push((package.name.to_string(), dependency.name.clone()));
        }
    }
    imports
}

fn forbidden_imports(imports: &[Import]) -> Vec<String> {
    let mut faults = Vec::new();
    for (from, to) in imports {
        let (Some(upper), Some(lower)) = (floor(from), floor(to)) else {
            faults.push(format!("{from} or {to} has no floor (xtask/src/floors.rs)"));
            continue;
        };
        let allowed = EXCEPTIONS.iter().any(|(f, t, _)| f == from && t == to);
        if from != to && upper <= lower && !allowed {
            faults.push(format!("{from} (floor {upper}) imports {to} (floor {lower})"));
        }
    }
    faults
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, floor)| *floor)
}

/// What is wrong with the lints in one crate's manifest.
fn lint_fault(name: &str, manifest: &str) -> Option<String> {
    if name == UNSAFE_ALLOWED {
        let rules = ["missing_docs = \"warn\"", "unsafe_op_in_unsafe_fn = \"deny\""];
        let missing =
            rules.iter().find(|rule| !section(manifest, "lints.rust").any(|l| l == **rule));
        return missing.map(|rule| format!("{name} does not set {rule}"));
    }
    let inherits = section(manifest, "lints").any(|line| line == "workspace = true");
    (!inherits).then(|| format!("{name} does not inherit the workspace's lints"))
}

/// The lines of one table of a manifest.
fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().map(str::trim);
    lines.skip_while(move |line| *line != header).skip(1).take_while(|line| !line.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_import(from: &str, to: &str) -> usize {
        forbidden_imports(&[(from.to_owned(), to.to_owned())]).len()
    }

    #[test]
    fn imports_go_down_only() {
        assert_eq!(check_import("metalcast-agent", "metalcast-sys"), 0);
        assert_eq!(check_import("metalcast-tests", "metalcast-shared"), 0);
        assert_eq!(check_import("metalcast-controller", "metalcast-agent"), 1, "sideways");
        assert_eq!(check_import("metalcast-formats", "metalcast-netboot"), 1, "sideways");
        assert_eq!(check_import("metalcast-shared", "metalcast-sys"), 1, "upwards");
        assert_eq!(check_import("xtask", "metalcast-tests"), 0, "an exception");
        assert_eq!(check_import("metalcast-tests", "xtask"), 1, "the exception has a direction");
        assert_eq!(check_import("metalcast-new", "metalcast-shared"), 1, "no floor");
    }

    #[test]
    fn every_crate_holds_to_the_lints() {
        let inherits = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n\n[dependencies]\n";
        assert_eq!(lint_fault("metalcast-agent", inherits), None);
        let other = "[lints]\n[dependencies]\nworkspace = true\n";
        assert!(lint_fault("metalcast-agent", other).is_some());
        assert!(lint_fault(UNSAFE_ALLOWED, "[lints.rust]\nmissing_docs = \"warn\"\n").is_some());
    }

    #[test]
    fn this_workspace_keeps_the_floors() {
        check().unwrap();
    }
}
