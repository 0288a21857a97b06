//! The RAM image from Debian packages: downloaded and unpacked under `target/debs`, never installed.
//!
//! What goes in is declared in `initramfs/manifest`, the tools once for all kernels; this file only
//! brings the packages, has `grub-mkimage` make GRUB's core images after the recipes of
//! `metalcast-formats`, and writes the result. Equal packages and an equal agent give equal bytes; what
//! they were is noted beside the result, and while they stay the same nothing is built.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use metalcast_formats::grub::recipe::{self, Recipe};
use metalcast_initramfs::manifest::{self, Manifest, Tools};
use metalcast_initramfs::{Built, bundle, packed};
use metalcast_tests::kernel::Kernel;
use metalcast_tests::{paths, process};

/// The packages of every RAM image that its manifest does not name.
const BUSYBOX_PACKAGE: &str = "busybox-static";
const GRUB_PACKAGE: &str = "grub-pc-bin";
/// Where GRUB's modules lie in their package.
const GRUB_MODULES: &str = "usr/lib/grub/i386-pc";

/// The files of a RAM image.
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs";
const REPORT: &str = "ram-image.json";

/// What the tasks that build a RAM image take.
#[derive(clap::Args, Debug, Default)]
// Flattened into another task's options, whose group has the same name.
#[group(skip)]
pub struct Options {
    /// The RAM image's kernel: `cloud` for virtual machines, `generic` for every PC
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<Kernel>,
    #[command(flatten)]
    pub agent: crate::agent::Options,
}

/// A RAM image on this machine's disk.
#[derive(Debug, Clone)]
pub struct RamImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The compressed initramfs.
    pub initramfs: PathBuf,
    /// Version of the kernel.
    pub version: String,
}

/// Builds `out_dir/vmlinuz`, `out_dir/initramfs`, the bundles of tools in `out_dir/tools`, and
/// `out_dir/ram-image.json`, which says what is in them, with `agent` (a static program) as process 1.
///
/// # Errors
/// When a package cannot be had, a tool fails, or a manifest names what is in no package.
pub fn build(out_dir: &Path, kernel: Kernel, agent: &Path) -> Result<RamImage> {
    let (path, text) = declared(&kernel.to_string())?;
    let manifest: Manifest = manifest::parse(&text).context(path)?;
    let (path, text) = declared("tools")?;
    let tools: Tools = manifest::parse(&text).context(path)?;
    let kernel_package = kernel_package(&manifest.kernel_package)?;
    let mut names = vec![kernel_package.as_str(), BUSYBOX_PACKAGE, GRUB_PACKAGE];
    names.extend(tools.packages.iter().map(String::as_str));
    std::fs::create_dir_all(out_dir).with_context(|| format!("creating {}", out_dir.display()))?;
    let lock = File::create(out_dir.join("lock")).context("creating a lock")?;
    lock.lock().context("waiting for another process that builds the RAM image")?;
    let archives = archives(&names)?;
    let inputs = inputs::digest(&archives, agent)?;
    if let Some(version) = inputs::kept(out_dir, &inputs) {
        let (kernel, initramfs) = (out_dir.join(KERNEL), out_dir.join(INITRAMFS));
        return Ok(RamImage { kernel, initramfs, version });
    }
    let roots = unpacked(archives)?;
    let scratch = paths::scratch("grub")?;
    let grub_dir = scratch.path().join("images");
    make_grub(&roots[GRUB_PACKAGE].join(GRUB_MODULES), scratch.path(), &grub_dir)?;

    let tool_roots: Vec<PathBuf> =
        tools.packages.iter().map(|name| roots[name.as_str()].clone()).collect();
    let built = metalcast_initramfs::build(&metalcast_initramfs::Input {
        manifest: &manifest,
        tools: &tools,
        kernel_root: &roots[kernel_package.as_str()],
        tool_roots: &tool_roots,
        busybox: &roots[BUSYBOX_PACKAGE].join("bin/busybox"),
        agent,
        grub_dir: &grub_dir,
        pack: &pack,
    })
    .context("putting the RAM image together")?;
    let image = write(out_dir, &built)?;
    inputs::note(out_dir, &inputs)?;
    Ok(image)
}

/// Path and text of a manifest.
fn declared(name: &str) -> Result<(String, String)> {
    let path = paths::workspace().join("initramfs/manifest").join(name).with_extension("toml");
    let shown = path.display().to_string();
    let text = String::from_utf8(read(&path)?).with_context(|| format!("reading {shown}"))?;
    Ok((shown, text))
}

fn write(out_dir: &Path, built: &Built) -> Result<RamImage> {
    let image = RamImage {
        kernel: out_dir.join(KERNEL),
        initramfs: out_dir.join(INITRAMFS),
        version: built.report.kernel_version.clone(),
    };
    replace(&image.kernel, &built.kernel)?;
    replace(&image.initramfs, &built.initramfs)?;
    let tools = out_dir.join(bundle::BESIDE_DIR);
    std::fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    for (name, bytes) in &built.beside {
        replace(&tools.join(name), bytes)?;
    }
    remove_others(&tools, &built.beside.keys().cloned().collect())?;
    let report = serde_json::to_vec_pretty(&built.report).context("writing the report")?;
    replace(&out_dir.join(REPORT), &report)?;
    Ok(image)
}

/// Removes the bundles of earlier builds.
fn remove_others(dir: &Path, names: &BTreeSet<String>) -> Result<()> {
    let listed = || format!("listing {}", dir.display());
    for entry in dir.read_dir().with_context(listed)? {
        let entry = entry.with_context(listed)?;
        if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
            let path = entry.path();
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// [`packed::pack`], remembered: most of a RAM image is the same as in the last one, and packing all
/// modules takes a minute.
fn pack(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let dir = paths::target().join("debs/packed");
    std::fs::create_dir_all(&dir)?;
    let name = format!("{}-{}", blake3::hash(content), packed::method());
    let path = dir.join(name);
    let known = std::fs::read(&path).ok();
    if let Some(known) = known.filter(|known| packed::unpack(known).is_ok_and(|c| c == content)) {
        return Ok(known);
    }
    let fresh = packed::pack(content)?;
    replace(&path, &fresh).map_err(std::io::Error::other)?;
    Ok(fresh)
}

/// The package with the kernel itself, on which the meta package depends.
fn kernel_package(meta: &str) -> Result<String> {
    let depends = process::run(Command::new("apt-cache").args(["depends", meta]))?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("{meta} depends on no kernel; run apt-get update"))
}

/// Has apt look only at what can be downloaded: what is installed here may be had nowhere any more.
const NOTHING_INSTALLED: [&str; 2] = ["-o", "Dir::State::status=/dev/null"];

/// Downloads and unpacks packages, where that was not done before; the root of each by its name.
///
/// # Errors
/// When one cannot be had.
pub fn packages<'n>(names: &[&'n str]) -> Result<BTreeMap<&'n str, PathBuf>> {
    unpacked(archives(names)?)
}

/// The `.deb` files of packages in the versions that apt would install now, downloaded where they are not
/// there; each by its package's name.
fn archives<'n>(names: &[&'n str]) -> Result<BTreeMap<&'n str, PathBuf>> {
    let cache = paths::target().join("debs");
    std::fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    // One question for all: apt takes a second to read its lists. The answers come in an order of its own,
    // `'https://...' e2fsprogs_1.47.0-2_amd64.deb 571920 SHA256:...`
    let mut command = Command::new("apt-get");
    command.args(NOTHING_INSTALLED).args(["download", "--print-uris"]);
    let answers = process::run(command.args(names))?;
    let mut archives = BTreeMap::new();
    for name in names {
        let is_its = |line: &[&str]| {
            line.get(1).and_then(|file| file.split_once('_')).is_some_and(|(of, _)| of == *name)
        };
        let lines = answers.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.into_iter().find(|line| is_its(line));
        let Some([_, file, size, ..]) = line.as_deref() else {
            anyhow::bail!("apt knows no source of {name}; run apt-get update");
        };
        let size = size.parse().with_context(|| format!("reading the size of {name}: {size}"))?;
        archives.insert(*name, download(&cache, name, file, size)?);
    }
    Ok(archives)
}

/// Unpacks packages, where that was not done before; the root of each by its name.
fn unpacked(archives: BTreeMap<&str, PathBuf>) -> Result<BTreeMap<&str, PathBuf>> {
    let mut roots = BTreeMap::new();
    for (name, archive) in archives {
        let stem = archive.file_stem().context("a package without a name")?;
        let root = archive.with_file_name("unpacked").join(stem);
        if !root.is_dir() {
            unpack(&archive, &root)?;
        }
        roots.insert(name, root);
    }
    Ok(roots)
}

/// The file of a package with the name and size that apt announced.
fn download(cache: &Path, name: &str, file: &str, size: u64) -> Result<PathBuf> {
    ensure!(!file.contains('/'), "apt names {file} as the file of {name}");
    let path = cache.join(file);
    let whole = |path: &Path| path.metadata().is_ok_and(|meta| meta.len() == size);
    if !whole(&path) {
        let mut command = Command::new("apt-get");
        command.args(NOTHING_INSTALLED);
        // Root owns the directory; apt's own user could not write to it.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "download", name]);
        process::run(command.current_dir(cache))?;
        ensure!(whole(&path), "{} is not of the size that apt announced", path.display());
    }
    Ok(path)
}

/// Unpacks beside the final place first, so that an interrupted run leaves no half root.
fn unpack(archive: &Path, root: &Path) -> Result<()> {
    let parent = root.parent().context("a package root without a parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let scratch = paths::scratch("unpack")?;
    let whole = scratch.path().join("root");
    process::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&whole))?;
    std::fs::rename(&whole, root).with_context(|| format!("creating {}", root.display()))
}

/// Makes the three files that the agent writes boot sectors with.
fn make_grub(modules: &Path, scratch: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    replace(&out.join("boot.img"), &read(&modules.join("boot.img"))?)?;
    make_core(modules, scratch, &recipe::disk_core(), &out.join("mbr-core.img"))?;
    make_core(modules, scratch, &recipe::slot_core(), &out.join("slot-core.img"))
}

fn make_core(modules: &Path, scratch: &Path, recipe: &Recipe, out: &Path) -> Result<()> {
    let (config, memdisk) = (scratch.join("early.cfg"), scratch.join("memdisk.tar"));
    replace(&config, recipe.early_config.as_bytes())?;
    replace(&memdisk, &recipe.memdisk)?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let args = recipe.mkimage_args(&path(&config)?, &path(&memdisk)?, &path(out)?);
    process::run(Command::new("grub-mkimage").arg("-d").arg(modules).args(args))?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file so that a reader sees the old or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.to_owned().into_os_string();
    partial.push(".new");
    let write = || std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    write().with_context(|| format!("writing {}", path.display()))
}
