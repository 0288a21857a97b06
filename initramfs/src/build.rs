//! Putting a RAM image together from unpacked packages, and the report of what is in it.
//!
//! The initramfs is two archives, one after the other: what is packed by itself (modules, bundles of
//! tools) as it is, and the rest, compressed as a whole.

use crate::bundle::{self, Bundle};
use crate::cpio::Archive;
use crate::manifest::{self, Manifest, Tools};
use crate::modules::{Index, Unknown};
use crate::packed;
use crate::tools;
use metalcast_shared::hash::Hash;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

mod error;

pub use error::BuildError;

/// Largest initramfs: firmware and iPXE load it into the memory of small machines.
const INITRAMFS_LIMIT: u64 = 25_000_000;
/// Largest root directory that the kernel unpacks from it; it stays in memory.
const UNPACKED_LIMIT: u64 = 60_000_000;
/// Where the agent lies; `/init` is a link to it.
pub const AGENT_PATH: &str = "bin/metalcast-agent";
/// The kernel's own name for who loads a module that it asks for (`/proc/sys/kernel/modprobe`).
const MODPROBE_PATH: &str = "sbin/modprobe";
/// Where GRUB's parts lie, for the agent to write boot sectors with.
pub const GRUB_DIR: &str = "lib/metalcast/grub";
/// Names of modules to load at every start, one a line.
pub const MODULES_LOAD_PATH: &str = "etc/modules.load";

/// What a RAM image is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Which kernel and which modules go in.
    pub manifest: &'a Manifest,
    /// Which tools go in, or lie beside it.
    pub tools: &'a Tools,
    /// Root of the unpacked kernel package: `boot/vmlinuz-VERSION`, `lib/modules/VERSION`.
    pub kernel_root: &'a Path,
    /// Roots of the other unpacked packages; the first that has a file gives it.
    pub tool_roots: &'a [PathBuf],
    /// The static busybox program.
    pub busybox: &'a Path,
    /// The agent, a static program.
    pub agent: &'a Path,
    /// Directory with GRUB's parts, all of whose files are taken.
    pub grub_dir: &'a Path,
    /// [`packed::pack`], or what remembers its results.
    pub pack: &'a dyn Fn(&[u8]) -> io::Result<Vec<u8>>,
}

/// A RAM image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The kernel, as in its package.
    pub kernel: Vec<u8>,
    /// The initramfs.
    pub initramfs: Vec<u8>,
    /// The bundles that lie beside it, by file name.
    pub beside: BTreeMap<String, Vec<u8>>,
    /// What is in it.
    pub report: Report,
}

/// What a RAM image holds, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Kernel version, such as `6.1.0-1-cloud-amd64`.
    pub kernel_version: String,
    /// Size of the kernel file.
    pub kernel_bytes: u64,
    /// BLAKE3 of the kernel file, base16.
    pub kernel_blake3: String,
    /// Size of the initramfs file.
    pub initramfs_bytes: u64,
    /// BLAKE3 of the initramfs file, base16.
    pub initramfs_blake3: String,
    /// Size of all files of the root that the kernel makes of it.
    pub unpacked_bytes: u64,
    /// Its size by part: `agent`, `grub`, `modules`, `tools` ...
    pub parts: BTreeMap<&'static str, u64>,
    /// File names of the bundles that lie beside it, by the name of the bundle.
    pub beside: BTreeMap<String, String>,
    /// Kernel modules by name, in loading order.
    pub modules: Vec<String>,
}

/// Builds a RAM image. Equal input gives equal bytes.
pub fn build(input: &Input) -> Result<Built, BuildError> {
    let version = kernel_version(input.kernel_root)?;
    let kernel = tools::read(&input.kernel_root.join(format!("boot/vmlinuz-{version}")))?;
    let mut image = Image::new(input);
    image.skeleton()?;
    image.agent()?;
    if input.manifest.rescue_shell {
        image.rest("busybox", "bin/busybox", static_program(input.busybox)?, 0o755)?;
        image.link("bin/sh", "busybox")?;
    }
    let modules = image.modules(&version)?;
    image.tools()?;
    image.grub()?;
    let Image { packed, rest, parts, beside, names, .. } = image;
    let rest = input.compress("the initramfs", &rest.into_bytes())?;
    let initramfs = [packed.into_bytes(), rest].concat();
    let (initramfs_bytes, unpacked_bytes) = (initramfs.len() as u64, parts.values().sum());
    within("the initramfs", initramfs_bytes, INITRAMFS_LIMIT)?;
    within("the unpacked root", unpacked_bytes, UNPACKED_LIMIT)?;
    let report = Report {
        kernel_version: version,
        kernel_bytes: kernel.len() as u64,
        kernel_blake3: blake3::hash(&kernel).to_string(),
        initramfs_bytes,
        initramfs_blake3: blake3::hash(&initramfs).to_string(),
        unpacked_bytes,
        parts,
        beside: names,
        modules,
    };
    Ok(Built { kernel, initramfs, beside, report })
}

impl Input<'_> {
    fn compress(&self, what: &str, bytes: &[u8]) -> Result<Vec<u8>, BuildError> {
        (self.pack)(bytes).map_err(|source| BuildError::Compress(what.to_owned(), source))
    }
}

struct Image<'a> {
    input: &'a Input<'a>,
    /// What is packed by itself.
    packed: Archive,
    rest: Archive,
    parts: BTreeMap<&'static str, u64>,
    beside: BTreeMap<String, Vec<u8>>,
    names: BTreeMap<String, String>,
}

impl<'a> Image<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        Self {
            input,
            packed: Archive::new(),
            rest: Archive::new(),
            parts: BTreeMap::new(),
            beside: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// What must be there before anything is mounted. The kernel opens /dev/console for process 1
    /// before a devtmpfs is there.
    fn skeleton(&mut self) -> Result<(), BuildError> {
        for (dir, mode) in [
            ("dev", 0o755),
            ("proc", 0o555),
            ("sys", 0o555),
            ("run", 0o755),
            ("mnt", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
        ] {
            self.rest.dir(dir, mode).map_err(BuildError::Archive)?;
        }
        self.rest.char_device("dev/console", 5, 1, 0o600).map_err(BuildError::Archive)?;
        self.rest.char_device("dev/null", 1, 3, 0o666).map_err(BuildError::Archive)
    }

    fn agent(&mut self) -> Result<(), BuildError> {
        self.rest("agent", AGENT_PATH, static_program(self.input.agent)?, 0o755)?;
        self.link("init", AGENT_PATH)?;
        self.link(MODPROBE_PATH, &format!("/{AGENT_PATH}"))
    }

    fn modules(&mut self, version: &str) -> Result<Vec<String>, BuildError> {
        let dir = self.input.kernel_root.join("lib/modules").join(version);
        let index = Index::scan(&dir).map_err(BuildError::Index)?;
        let names = chosen(&index, &self.input.manifest.modules).map_err(BuildError::Unknown)?;
        let target = format!("lib/modules/{version}");
        for path in names.iter().filter_map(|name| index.path(name)) {
            let packed = self.input.compress(path, &tools::read(&dir.join(path))?)?;
            self.packed("modules", &format!("{target}/{path}{}", packed::SUFFIX), packed)?;
        }
        for (name, text) in index.trimmed(&names, packed::SUFFIX).tables().files() {
            self.rest("modules", &format!("{target}/{name}"), text.into(), 0o644)?;
        }
        let load = self.input.manifest.modules.load.iter();
        let load: String = load.map(|name| format!("{name}\n")).collect();
        self.rest("modules", MODULES_LOAD_PATH, load.into(), 0o644)?;
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn tools(&mut self) -> Result<(), BuildError> {
        let roots = self.input.tool_roots;
        // What is in a bundle inside is there for all others.
        let mut there = BTreeMap::new();
        let mut table = Vec::new();
        let mut bundles: Vec<_> = self.input.tools.bundle.iter().collect();
        bundles.sort_by_key(|(_, bundle)| !bundle.inside);
        for (name, manifest::Bundle { inside, programs, files }) in bundles {
            let mut libraries = tools::collect(roots, programs)?;
            let own = programs.iter().filter_map(|path| libraries.remove_entry(path)).collect();
            libraries.retain(|path, _| !there.contains_key(path));
            let files = files.iter().map(|path| {
                let found = tools::find(roots, path)?;
                Ok((path.clone(), found.ok_or_else(|| BuildError::Missing(path.clone()))?))
            });
            let files = files.collect::<Result<_, BuildError>>()?;
            let content = bundle_content([(&libraries, true), (&files, false), (&own, true)]);
            within(&format!("bundle {name}"), content.len() as u64, packed::CONTENT_LIMIT as u64)?;
            let packed = self.input.compress(name, &content)?;
            within(&format!("bundle {name}"), packed.len() as u64, bundle::PACKED_LIMIT.into())?;
            let bundle = Bundle {
                name: name.clone(),
                programs: programs.clone(),
                inside: *inside,
                packed_bytes: u32::try_from(packed.len()).unwrap_or(bundle::PACKED_LIMIT),
                hash: Hash::of(&packed),
            };
            if *inside {
                there.extend(libraries);
                self.packed(
                    "tools",
                    &format!("{}/{}", bundle::INSIDE_DIR, bundle.file_name()),
                    packed,
                )?;
            } else {
                self.names.insert(name.clone(), bundle.file_name());
                self.beside.insert(bundle.file_name(), packed);
            }
            table.push(bundle);
        }
        self.rest("tools", bundle::TABLE_PATH, bundle::write_table(&table), 0o644)
    }

    fn grub(&mut self) -> Result<(), BuildError> {
        let dir = self.input.grub_dir;
        let read = |source| BuildError::Read { path: dir.to_owned(), source };
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            self.rest("grub", &format!("{GRUB_DIR}/{name}"), tools::read(&entry.path())?, 0o644)?;
        }
        Ok(())
    }

    fn packed(&mut self, part: &'static str, path: &str, bytes: Vec<u8>) -> Result<(), BuildError> {
        *self.parts.entry(part).or_default() += bytes.len() as u64;
        self.packed.file(path, bytes, 0o644).map_err(BuildError::Archive)
    }

    fn rest(
        &mut self,
        part: &'static str,
        path: &str,
        bytes: Vec<u8>,
        mode: u32,
    ) -> Result<(), BuildError> {
        *self.parts.entry(part).or_default() += bytes.len() as u64;
        self.rest.file(path, bytes, mode).map_err(BuildError::Archive)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), BuildError> {
        self.rest.symlink(path, target).map_err(BuildError::Archive)
    }
}

/// The modules that a manifest wants, in loading order.
fn chosen<'i>(index: &'i Index, wanted: &manifest::Modules) -> Result<Vec<&'i str>, Unknown> {
    let mut names: Vec<&str> =
        wanted.include.iter().chain(&wanted.load).map(String::as_str).collect();
    for dir in &wanted.dirs {
        let below = index.below(&format!("kernel/{dir}"));
        if below.is_empty() {
            return Err(Unknown(vec![format!("kernel/{dir}/*")]));
        }
        names.extend(below);
    }
    index.closure(&names)
}

/// The content of a bundle from files by path, and whether they are programs or libraries.
fn bundle_content(groups: [(&BTreeMap<String, Vec<u8>>, bool); 3]) -> Vec<u8> {
    let all = groups.into_iter().flat_map(|(files, executable)| {
        files.iter().map(move |(path, bytes)| bundle::File { path, executable, bytes })
    });
    bundle::content(&all.collect::<Vec<_>>())
}

fn within(what: &str, bytes: u64, limit: u64) -> Result<(), BuildError> {
    if bytes > limit {
        return Err(BuildError::TooLarge { what: what.to_owned(), bytes, limit });
    }
    Ok(())
}

fn kernel_version(root: &Path) -> Result<String, BuildError> {
    let path = root.join("lib/modules");
    let read = |source| BuildError::Read { path: path.clone(), source };
    let versions: Vec<String> = std::fs::read_dir(&path)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()
        .map_err(read)?;
    match &versions[..] {
        [version] => Ok(version.clone()),
        _ => Err(BuildError::Versions { path, count: versions.len() }),
    }
}

fn static_program(path: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = tools::read(path)?;
    let needs = crate::elf::needs(&bytes)
        .map_err(|source| BuildError::Program { path: path.display().to_string(), source })?;
    if needs.interpreter.is_some() || !needs.libraries.is_empty() {
        return Err(BuildError::NotStatic(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
