//! `cargo xtask agent`: the agent as a static musl program, `/init` of the RAM image.
//!
//! The ordinary way is rustup's `x86_64-unknown-linux-musl` target with musl-gcc for C code (ring, zstd). Where rustup
//! is missing or refuses, [`Musl::Zig`] needs nothing but Debian and PyPI: Debian's newest rustc with the standard
//! library's source, compiled along, and zig as C compiler, linker and libc.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use metalcast_tests::paths;
use metalcast_tests::process::{run, run_visibly};
use metalcast_tests::progress::step;

use crate::cargo::{answers, cargo};
use crate::setup;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// The variable that asks for the other way: `METALCAST_MUSL=zig`.
const WAY: &str = "METALCAST_MUSL";

/// How to build for musl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Musl {
    /// With rustup's ready-made target.
    Rustup,
    /// With the standard library compiled from Debian's source package and zig.
    Zig,
}

impl Musl {
    /// The way that was asked for, by flag or by the environment.
    pub fn chosen(without_rustup: bool) -> Self {
        let zig = without_rustup || std::env::var_os(WAY).is_some_and(|way| way == "zig");
        if zig { Self::Zig } else { Self::Rustup }
    }
}

/// What the tasks that need an agent take.
#[derive(clap::Args, Debug, Default)]
// Flattened into another task's options, whose group has the same name.
#[group(skip)]
pub struct Options {
    /// Build for musl without rustup's target (also METALCAST_MUSL=zig)
    #[arg(long)]
    pub without_rustup: bool,
}

/// Builds the agent, optimised, and returns its path.
///
/// # Errors
/// When it does not compile, or is not a static program.
pub fn build_agent(force_fallback: bool) -> Result<PathBuf> {
    build_static("metalcast-agent", "metalcast-agent", force_fallback)
}

/// Builds one program of the workspace for musl.
fn build_static(package: &str, program: &str, force_fallback: bool) -> Result<PathBuf> {
    let way = prepare(Musl::chosen(force_fallback))?;
    let mut command = match way {
        Musl::Rustup => {
            let mut command = cargo();
            command.arg("build").env("CC_x86_64_unknown_linux_musl", "musl-gcc");
            command
        }
        Musl::Zig => zig_build()?,
    };
    let target_dir = match way {
        Musl::Rustup => paths::target(),
        // Another compiler: sharing a directory would make each build all of the other's again.
        Musl::Zig => paths::target().join("musl"),
    };
    command.args(["--quiet", "--release", "--target", TARGET, "--package", package]);
    command.args(["--bin", program, "--target-dir"]).arg(&target_dir);
    let how = if way == Musl::Zig { "musl, from source" } else { "musl" };
    step(&format!("building {program} ({how})"), || run_visibly(&mut command))?;
    let path = target_dir.join(TARGET).join("release").join(program);
    ensure!(is_static(&path)?, "{} asks for a dynamic loader", path.display());
    Ok(path)
}

/// Installs what a way needs and returns the way that works: the other one when rustup refuses.
///
/// # Errors
/// When neither can be had.
pub fn prepare(way: Musl) -> Result<Musl> {
    if way == Musl::Rustup {
        let installed = run(Command::new("rustup").args(["target", "list", "--installed"]));
        if installed.is_ok_and(|targets| targets.lines().any(|line| line == TARGET)) {
            return Ok(way);
        }
        // Where it refused once, asking it again would cost every task its timeouts.
        if !zig_is_installed() {
            let add = || run(Command::new("rustup").args(["target", "add", TARGET]));
            match step(&format!("rustup target add {TARGET}"), add) {
                Ok(_) => return Ok(way),
                Err(error) => eprintln!("    without rustup, then: {error:#}"),
            }
        }
    }
    prepare_zig()?;
    Ok(Musl::Zig)
}

/// What the way without rustup takes from PyPI, in versions that are known to build the agent together.
const PYPI: [&str; 2] = ["ziglang==0.17.0", "cargo-zigbuild==0.24.0"];

/// The Python environment that holds zig and cargo-zigbuild.
fn zig_dir() -> PathBuf {
    paths::target().join("zig")
}

/// Written when everything is in the environment, with what that is: pip may be interrupted between two packages.
fn zig_marker() -> PathBuf {
    zig_dir().join("installed")
}

fn zig_is_installed() -> bool {
    std::fs::read_to_string(zig_marker()).is_ok_and(|installed| installed == PYPI.join("\n"))
}

fn prepare_zig() -> Result<()> {
    setup::install("musl without rustup", &["rustc-web", "rust-web-src", "python3-venv"])?;
    if zig_is_installed() {
        return Ok(());
    }
    let dir = zig_dir();
    step(&format!("installing {} from PyPI", PYPI.join(" ")), || {
        run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&dir))?;
        run(Command::new(dir.join("bin/pip")).args(["-q", "install"]).args(PYPI))?;
        std::fs::write(zig_marker(), PYPI.join("\n")).context("noting what is installed")
    })
}

fn zig_build() -> Result<Command> {
    let rustc = "/usr/bin/rustc";
    ensure!(answers(rustc, &["--version"]), "{rustc} of the package rustc-web does not run");
    let mut path = zig_dir().join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").context("reading PATH")?);
    let mut command = cargo();
    // Cargo finds its command zigbuild, and that finds the Python that knows zig, in PATH.
    command.arg("zigbuild").env("PATH", path);
    // Only a nightly compiler, or one that is told to think so, compiles the standard library along.
    command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
    // The encoded form would win over the one below.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C link-self-contained=no");
    command.args(["-Zbuild-std=std,panic_unwind"]);
    Ok(command)
}

/// Whether an ELF program has no PT_INTERP header, that is, runs where there is no libc (elf(5)).
fn is_static(path: &Path) -> Result<bool> {
    let program = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    program_header_types(&program)
        .map(|types| !types.contains(&PT_INTERP))
        .with_context(|| format!("{} is no 64-bit ELF program", path.display()))
}

const PT_INTERP: u32 = 3;

fn program_header_types(elf: &[u8]) -> Option<Vec<u32>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let start = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let size = u16::from_le_bytes(elf.get(54..56)?.try_into().ok()?);
    let count = u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?);
    let kind = |index: u16| {
        let at = start.checked_add(usize::from(index) * usize::from(size))?;
        Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    (0..count).map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        assert!(!is_static(Path::new("/proc/self/exe")).unwrap());
        assert!(is_static(Path::new("/bin/busybox")).unwrap());
        assert!(program_header_types(b"#!/bin/sh\n").is_none());
        assert!(program_header_types(b"\x7fELF\x02\x01 cut").is_none());
    }
}
