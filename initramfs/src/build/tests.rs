use super::*;
use crate::modules::Unknown;
use crate::modules::tests::kernel;
use std::process::Command;

const MANIFEST: &str = r#"
    kernel_package = "linux-image-test"
    [modules]
    include = ["pci:v00001AF4d00001000sv0sd0bc2sc0i0", "ext4"]
    load = ["virtio_net"]
"#;

const TOOLS: &str = r#"
    packages = []
    [bundle.far]
    programs = ["/bin/cat"]
    [bundle.near]
    inside = true
    programs = ["/bin/ls"]
    files = ["/etc/hostname"]
"#;

struct Fixture {
    dir: tempfile::TempDir,
    manifest: Manifest,
    tools: Tools,
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
        let (manifest, tools) =
            (manifest::parse(MANIFEST).unwrap(), manifest::parse(TOOLS).unwrap());
        Self { manifest, tools, dir }
    }

    fn build(&self) -> Result<Built, BuildError> {
        let at = |path: &str| self.dir.path().join(path);
        build(&Input {
            manifest: &self.manifest,
            tools: &self.tools,
            kernel_root: &at("kernel"),
            tool_roots: &[at("tools"), PathBuf::from("/")],
            busybox: Path::new("/bin/busybox"),
            agent: Path::new("/bin/busybox"),
            grub_dir: &at("grub"),
            pack: &packed::pack,
        })
    }
}

/// Unpacks both archives as the kernel does, with the real tools; the names of all that is in them.
fn unpack(initramfs: &[u8], out: &Path) -> String {
    let name = b"TRAILER!!!\0";
    let end = initramfs.windows(name.len()).position(|window| window == name).unwrap();
    let (packed, rest) = initramfs.split_at((end + name.len()).next_multiple_of(4));
    std::fs::write(out.join("packed.cpio"), packed).unwrap();
    std::fs::write(out.join("rest.zst"), rest).unwrap();
    let script = "zstd -dq rest.zst -o rest.cpio
        for archive in packed rest; do cpio -idmu < $archive.cpio; cpio -t < $archive.cpio; done";
    let mut shell = Command::new("sh");
    let done = shell.args(["-ec", script]).current_dir(out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn two_builds_are_equal_and_the_real_tools_unpack_them() {
    let fixture = Fixture::new();
    let built = fixture.build().unwrap();
    assert_eq!(fixture.build().unwrap().initramfs, built.initramfs);
    let out = tempfile::tempdir().unwrap();
    let listing = unpack(&built.initramfs, out.path());
    let read = |path: &str| std::fs::read(out.path().join(path)).unwrap();
    let text = |path: &str| String::from_utf8(read(path)).unwrap();
    assert_eq!(text(MODULES_LOAD_PATH), "virtio_net\n");
    assert!(text("lib/modules/6.1.0-test/modules.dep").contains("drivers/virtio-pci.ko.zst:"));
    assert!(!listing.contains("lonely.ko") && listing.contains("net_failover.ko.zst"));
    assert!(!listing.contains("bin/sh") && !listing.contains("busybox"));
    let module = packed::unpack(&read("lib/modules/6.1.0-test/kernel/virtio.ko.zst")).unwrap();
    let original = fixture.dir.path().join("kernel/lib/modules/6.1.0-test/kernel/virtio.ko");
    assert_eq!(module, std::fs::read(original).unwrap());
    assert_eq!(read("init"), std::fs::read("/bin/busybox").unwrap());
    assert_eq!(built.report.parts["grub"], 512);
    assert_eq!(built.report.modules.last().unwrap(), "tail");
}

#[test]
fn bundles_lie_where_the_table_says_and_share_what_is_inside() {
    let built = Fixture::new().build().unwrap();
    let out = tempfile::tempdir().unwrap();
    unpack(&built.initramfs, out.path());
    let table = std::fs::read(out.path().join(bundle::TABLE_PATH)).unwrap();
    let table = bundle::read_table(&table).unwrap();
    let [near, far] = &table[..] else { panic!("{table:?}") };
    assert!(near.inside && near.has("ls") && !near.has("s") && !far.inside && far.has("cat"));
    let inside = out.path().join(bundle::INSIDE_DIR).join(near.file_name());
    let beside = &built.beside[&far.file_name()];
    assert_eq!(built.report.beside["far"], far.file_name());
    let check = |bundle: &Bundle, packed: &[u8], wanted: &[&str], unwanted: &str| {
        assert_eq!(Hash::of(packed), bundle.hash);
        let content = packed::unpack(packed).unwrap();
        let files = bundle::files(&content).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path).collect();
        assert!(wanted.iter().all(|wanted| paths.iter().any(|p| p.ends_with(wanted))), "{paths:?}");
        assert!(!paths.iter().any(|path| path.ends_with(unwanted)), "{paths:?}");
        let last = files.last().unwrap();
        let original = std::fs::read(last.path).unwrap();
        assert_eq!((last.path, last.bytes), (bundle.programs[0].as_str(), &original[..]));
        assert!(bundle::files(&content[..content.len() - 1]).is_err());
    };
    check(near, &std::fs::read(inside).unwrap(), &["/libc.so.6", "/etc/hostname"], "/cat");
    check(far, beside, &["/cat"], "/libc.so.6");
}

#[test]
fn mistakes_in_the_manifests_are_named() {
    let mut fixture = Fixture::new();
    fixture.manifest.modules.include.push("nosuch".into());
    let error = fixture.build().unwrap_err();
    assert!(matches!(error, BuildError::Unknown(Unknown(names)) if names == ["nosuch"]));
    let mut fixture = Fixture::new();
    fixture.manifest.modules.dirs.push("drivers/none".into());
    let error = fixture.build().unwrap_err();
    assert!(
        matches!(error, BuildError::Unknown(Unknown(names)) if names == ["kernel/drivers/none/*"])
    );
    let mut fixture = Fixture::new();
    fixture.tools.bundle.get_mut("near").unwrap().files.push("/no/such".into());
    assert_eq!(fixture.build().unwrap_err().to_string(), "/no/such is in none of the packages");
}

#[test]
fn what_does_not_fit_into_small_machines_is_not_built() {
    let fixture = Fixture::new();
    let large = vec![0x55; 61_000_000];
    std::fs::write(fixture.dir.path().join("grub/boot.img"), large).unwrap();
    let error = fixture.build().unwrap_err().to_string();
    assert!(error.starts_with("the unpacked root has 6"), "{error}");
}
