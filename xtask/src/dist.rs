//! `cargo xtask initramfs` and `cargo xtask dist`: the RAM image, and everything that is shipped in one directory.
//!
//! ```text
//!   target/dist/metalcast            the controller
//!   target/dist/ram-image/vmlinuz    what nodes netboot into
//!   target/dist/ram-image/initramfs
//!   target/dist/ram-image/tools/     what the agent fetches when a step needs it
//!   target/dist/metalcast.toml       an example of a configuration
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use metalcast_initramfs::bundle;
use metalcast_tests::kernel::Kernel;
use metalcast_tests::paths;
use metalcast_tests::process::run_visibly;
use metalcast_tests::progress::step;

use crate::agent::{self, build_agent};
use crate::cargo::cargo;
use crate::initramfs;

/// An example of a configuration: what has no default, for the network of the manual's example.
const EXAMPLE: &str = include_str!("dist/metalcast.toml");

/// Builds the RAM image and returns its directory.
///
/// # Errors
/// When the agent does not compile or the kernel cannot be had.
pub fn ram_image(kernel: Kernel, options: &agent::Options) -> Result<PathBuf> {
    let agent = build_agent(options.without_rustup)?;
    let dir = paths::target().join("ram-image").join(kernel.to_string());
    let what = format!("building the RAM image ({kernel} kernel)");
    let image = step(&what, || initramfs::build(&dir, kernel, &agent))?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len()) / 1000;
    eprintln!(
        "    kernel {} {} kB, initramfs {} kB",
        image.version,
        size(&image.kernel),
        size(&image.initramfs)
    );
    Ok(dir)
}

/// Builds the controller as it is shipped and returns its path.
///
/// # Errors
/// When it does not compile.
pub fn controller() -> Result<PathBuf> {
    let build = ["build", "--quiet", "--release", "-p", "metalcast-controller"];
    step("building the controller, optimised", || run_visibly(cargo().args(build)))?;
    Ok(paths::target().join("release/metalcast"))
}

/// Gathers what is shipped: for real machines, unless another kernel is asked for.
///
/// # Errors
/// When a part does not build or a file cannot be copied.
pub fn run(options: &initramfs::Options) -> Result<()> {
    let dist = paths::target().join("dist");
    let ram_image = ram_image(options.kernel.unwrap_or(Kernel::Generic), &options.agent)?;
    let controller = controller()?;
    let tools = ram_image.join(bundle::BESIDE_DIR);
    let tools_there = dist.join("ram-image").join(bundle::BESIDE_DIR);
    std::fs::create_dir_all(&tools_there).context("creating target/dist")?;
    copy(&controller, &dist.join("metalcast"))?;
    for name in ["vmlinuz", "initramfs"] {
        copy(&ram_image.join(name), &dist.join("ram-image").join(name))?;
    }
    for entry in tools.read_dir().context("listing the RAM image's tools")? {
        let entry = entry.context("listing the RAM image's tools")?;
        copy(&entry.path(), &tools_there.join(entry.file_name()))?;
    }
    std::fs::write(dist.join("metalcast.toml"), EXAMPLE).context("writing the example")?;
    println!("{}", dist.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
        .map(drop)
}
