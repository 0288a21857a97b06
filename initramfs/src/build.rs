//! Putting a RAM image together from unpacked packages, and the report of what is in it.

use crate::cpio::{Archive, CpioError};
use crate::elf::ElfError;
use crate::manifest::Manifest;
use crate::modules::{Index, IndexError, Unknown};
use crate::tools;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// zstd's highest ordinary level: it decompresses as fast as any, with a window of 8 MiB.
const COMPRESSION_LEVEL: i32 = 19;
/// Where the agent lies; `/init` is a link to it.
pub const AGENT_PATH: &str = "bin/metalcast-agent";
/// Where GRUB's parts lie, for the agent to write boot sectors with.
pub const GRUB_DIR: &str = "lib/metalcast/grub";
/// Names of modules to load at every start, one a line.
pub const MODULES_LOAD_PATH: &str = "etc/modules.load";

/// What a RAM image is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What goes in.
    pub manifest: &'a Manifest,
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
}

/// A RAM image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The kernel, as in its package.
    pub kernel: Vec<u8>,
    /// The compressed initramfs.
    pub initramfs: Vec<u8>,
    /// What is in it.
    pub report: Report,
}

/// What a RAM image holds, in bytes before compression unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Kernel version, such as `6.1.0-1-cloud-amd64`.
    pub kernel_version: String,
    /// Size of the kernel file.
    pub kernel_bytes: u64,
    /// BLAKE3 of the kernel file, base16.
    pub kernel_blake3: String,
    /// Compressed size of the initramfs.
    pub initramfs_bytes: u64,
    /// BLAKE3 of the compressed initramfs, base16.
    pub initramfs_blake3: String,
    /// Size of the initramfs unpacked.
    pub unpacked_bytes: u64,
    /// Size by part: `agent`, `busybox`, `grub`, `modules`, `programs` ...
    pub parts: BTreeMap<&'static str, u64>,
    /// Kernel modules by name, in loading order.
    pub modules: Vec<String>,
}

/// Why a RAM image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not exactly one kernel version in the kernel's package.
    #[error("{} holds {count} kernel versions instead of one", path.display())]
    Versions {
        /// The directory.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// The module tables could not be made.
    #[error("reading the kernel's modules")]
    Index(#[source] IndexError),
    /// The manifest names modules that do not exist.
    #[error("choosing the modules")]
    Unknown(#[source] Unknown),
    /// The manifest names a file that does not exist.
    #[error("{0} is in none of the packages")]
    Missing(String),
    /// A library was not found.
    #[error("{library}, wanted by {wanted_by}, is in none of the packages")]
    Library {
        /// Its name.
        library: String,
        /// The program or library that needs it.
        wanted_by: String,
    },
    /// A program could not be read as ELF.
    #[error("reading program {path}")]
    Program {
        /// Which.
        path: String,
        /// Why.
        source: ElfError,
    },
    /// The agent is not a static program, so it could not run.
    #[error("{} is not a static program", .0.display())]
    NotStatic(PathBuf),
    /// The archive cannot hold an entry.
    #[error("archiving")]
    Archive(#[source] CpioError),
    /// Compression failed.
    #[error("compressing the initramfs")]
    Compress(#[source] io::Error),
}

/// Builds a RAM image. Equal input gives equal bytes.
pub fn build(input: &Input) -> Result<Built, BuildError> {
    let version = kernel_version(input.kernel_root)?;
    let kernel = tools::read(&input.kernel_root.join(format!("boot/vmlinuz-{version}")))?;
    let mut image = Image::default();
    image.skeleton()?;
    image.agent(input.agent)?;
    image.part("busybox", "bin/busybox", static_program(input.busybox)?, 0o755)?;
    if input.manifest.rescue_shell {
        image.link("bin/sh", "busybox")?;
    }
    let modules = image.modules(input, &version)?;
    image.programs(input)?;
    image.grub(input.grub_dir)?;
    for (path, target) in &input.manifest.links {
        image.link(path, target)?;
    }
    let Image { archive, parts } = image;
    let unpacked = archive.into_bytes();
    let initramfs =
        zstd::bulk::compress(&unpacked, COMPRESSION_LEVEL).map_err(BuildError::Compress)?;
    let report = Report {
        kernel_version: version,
        kernel_bytes: kernel.len() as u64,
        kernel_blake3: blake3::hash(&kernel).to_string(),
        initramfs_bytes: initramfs.len() as u64,
        initramfs_blake3: blake3::hash(&initramfs).to_string(),
        unpacked_bytes: unpacked.len() as u64,
        parts,
        modules,
    };
    Ok(Built { kernel, initramfs, report })
}

#[derive(Default)]
struct Image {
    archive: Archive,
    parts: BTreeMap<&'static str, u64>,
}

impl Image {
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
            self.archive.dir(dir, mode).map_err(BuildError::Archive)?;
        }
        self.archive.char_device("dev/console", 5, 1, 0o600).map_err(BuildError::Archive)?;
        self.archive.char_device("dev/null", 1, 3, 0o666).map_err(BuildError::Archive)
    }

    fn agent(&mut self, path: &Path) -> Result<(), BuildError> {
        self.part("agent", AGENT_PATH, static_program(path)?, 0o755)?;
        self.link("init", AGENT_PATH)
    }

    fn modules(&mut self, input: &Input, version: &str) -> Result<Vec<String>, BuildError> {
        let dir = input.kernel_root.join("lib/modules").join(version);
        let index = Index::scan(&dir).map_err(BuildError::Index)?;
        let wanted = &input.manifest.modules;
        let all: Vec<&String> = wanted.include.iter().chain(&wanted.load).collect();
        let names = index.closure(&all).map_err(BuildError::Unknown)?;
        let target = format!("lib/modules/{version}");
        for path in names.iter().filter_map(|name| index.path(name)) {
            self.part(
                "modules",
                &format!("{target}/{path}"),
                tools::read(&dir.join(path))?,
                0o644,
            )?;
        }
        for (name, text) in index.trimmed(&names).tables().files() {
            self.part("modules", &format!("{target}/{name}"), text.into(), 0o644)?;
        }
        let load: String = wanted.load.iter().map(|name| format!("{name}\n")).collect();
        self.part("modules", MODULES_LOAD_PATH, load.into(), 0o644)?;
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn programs(&mut self, input: &Input) -> Result<(), BuildError> {
        for (path, bytes) in tools::collect(input.tool_roots, &input.manifest.programs)? {
            self.part("programs", &path, bytes, 0o755)?;
        }
        for path in &input.manifest.files {
            let bytes = tools::find(input.tool_roots, path)?
                .ok_or_else(|| BuildError::Missing(path.clone()))?;
            self.part("files", path, bytes, 0o644)?;
        }
        Ok(())
    }

    fn grub(&mut self, dir: &Path) -> Result<(), BuildError> {
        let read = |source| BuildError::Read { path: dir.to_owned(), source };
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            self.part("grub", &format!("{GRUB_DIR}/{name}"), tools::read(&entry.path())?, 0o644)?;
        }
        Ok(())
    }

    fn part(
        &mut self,
        part: &'static str,
        path: &str,
        bytes: Vec<u8>,
        mode: u32,
    ) -> Result<(), BuildError> {
        *self.parts.entry(part).or_default() += bytes.len() as u64;
        self.archive.file(path, bytes, mode).map_err(BuildError::Archive)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), BuildError> {
        self.archive.symlink(path, target).map_err(BuildError::Archive)
    }
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
mod tests {
    use super::*;
    use crate::modules::tests::kernel;
    use std::process::Command;

    const MANIFEST: &str = r#"
        kernel_package = "linux-image-test"
        packages = []
        programs = ["/bin/ls"]
        files = ["/etc/hostname"]
        links = { "sbin/list" = "../bin/ls" }
        [modules]
        include = ["pci:v00001AF4d00001000sv0sd0bc2sc0i0", "ext4"]
        load = ["virtio_net"]
    "#;

    struct Fixture {
        dir: tempfile::TempDir,
        manifest: Manifest,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |path: &str| dir.path().join(path);
            kernel(&at("kernel/lib/modules/6.1.0-test"));
            for path in ["kernel/boot", "grub", "tools/etc"] {
                std::fs::create_dir_all(at(path)).unwrap();
            }
            std::fs::write(at("kernel/boot/vmlinuz-6.1.0-test"), "kernel").unwrap();
            std::fs::write(at("grub/boot.img"), [0x55; 512]).unwrap();
            std::fs::write(at("tools/etc/hostname"), "metalcast\n").unwrap();
            Self { manifest: Manifest::parse(MANIFEST).unwrap(), dir }
        }

        fn build(&self) -> Result<Built, BuildError> {
            let at = |path: &str| self.dir.path().join(path);
            build(&Input {
                manifest: &self.manifest,
                kernel_root: &at("kernel"),
                tool_roots: &[at("tools"), PathBuf::from("/")],
                busybox: Path::new("/bin/busybox"),
                agent: Path::new("/bin/busybox"),
                grub_dir: &at("grub"),
            })
        }
    }

    #[test]
    fn two_builds_are_equal_and_the_real_tools_unpack_them() {
        let fixture = Fixture::new();
        let built = fixture.build().unwrap();
        assert_eq!(fixture.build().unwrap().initramfs, built.initramfs);
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join("i.zst"), &built.initramfs).unwrap();
        let unpacked = Command::new("sh")
            .args([
                "-ec",
                "zstd -dcq i.zst > i; stat -c %s i; cpio -idm --quiet < i; cpio -t --quiet < i",
            ])
            .current_dir(out.path())
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
        let listing = String::from_utf8(unpacked.stdout).unwrap();
        assert!(listing.starts_with(&format!("{}\n", built.report.unpacked_bytes)));
        let text = |path: &str| std::fs::read_to_string(out.path().join(path)).unwrap();
        assert_eq!(text("etc/hostname"), "metalcast\n");
        assert_eq!(text(MODULES_LOAD_PATH), "virtio_net\n");
        assert!(text("lib/modules/6.1.0-test/modules.dep").contains("drivers/virtio-pci.ko:"));
        assert!(!listing.contains("lonely.ko") && listing.contains("net_failover.ko"));
        assert!(!listing.contains("bin/sh"));
        let same = |path: &str, original: &str| {
            assert_eq!(
                std::fs::read(out.path().join(path)).unwrap(),
                std::fs::read(original).unwrap()
            );
        };
        same("init", "/bin/busybox");
        same("sbin/list", "/bin/ls");
        assert_eq!(built.report.parts["grub"], 512);
        assert_eq!(built.report.modules.last().unwrap(), "tail");
    }

    #[test]
    fn mistakes_in_the_manifest_are_named() {
        let mut fixture = Fixture::new();
        fixture.manifest.modules.include.push("nosuch".into());
        let error = fixture.build().unwrap_err();
        assert!(matches!(error, BuildError::Unknown(Unknown(names)) if names == ["nosuch"]));
        let mut fixture = Fixture::new();
        fixture.manifest.files.push("/no/such".into());
        assert_eq!(fixture.build().unwrap_err().to_string(), "/no/such is in none of the packages");
    }
}
