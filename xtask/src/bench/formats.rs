//! Images out of a disk, onto a disk and into the store, beside the pipelines that people use for the same, and beside
//! the part of the work that nobody can do without: compressing, or writing.
//!
//! The data is about 1 GiB of real files on ext4. Every run begins with its source in the page cache, and ends when
//! what it wrote is flushed.

mod contest;

use std::path::Path;

use anyhow::{Context, Result};
use metalcast_tests::host::{Host, Shipped};
use metalcast_tests::image;
use metalcast_tests::lab::Lab;
use metalcast_tests::loopdev::LoopDisk;
use metalcast_tests::progress::step;
use metalcast_tests::rig::Rig;

use self::contest::{Contest, Scene, Timed};
use super::{Figure, partclone_file, shipped};
use crate::initramfs;

/// The file system has 2 GiB.
const DISK_BYTES: u64 = 2 << 30;
/// The name that the image is imported under.
const IMAGE: &str = "bench/formats";

/// A disk into files.
const CAPTURE: Contest<3> = Contest {
    name: "capture",
    sources: &["RAW", "PLAIN"],
    commands: [
        r#""$AGENT" capture --from "$DISK" --to "$OUT/captured" --name sda1"#,
        r#"partclone.ext4 -c -L "$OUT/log" -s "$DISK" -o - | zstd -T0 -3 -q -o "$OUT/1.zst" &&
           sync "$OUT/1.zst""#,
        r#"zstd -T0 -3 -q -o "$OUT/1.zst" "$PLAIN" && sync "$OUT/1.zst""#,
    ],
};

/// Files onto a disk.
const RESTORE: Contest<3> = Contest {
    name: "restore",
    sources: &["STORED", "PLAIN"],
    commands: [
        r#""$AGENT" restore --image "$STORED" --partition sda1 --to "$TARGET" --yes"#,
        r#"zstd -dcq "$STORED"/sda1.*.zst |
           partclone.restore -z 10485760 -L "$OUT/log" -s - -o "$TARGET" && sync "$TARGET""#,
        r#"dd if="$PLAIN" of="$TARGET" bs=1M count="$MIB" oflag=direct conv=fsync"#,
    ],
};

/// What an older Clonezilla has made into the store.
const IMPORT: Contest<2> = Contest {
    name: "import",
    sources: &["GZ"],
    commands: [
        r#""$METALCAST" --socket "$SOCKET" image import "$GZ" bench/imported"#,
        r#"zcat "$GZ"/sda1.*.aa | zstd -T0 -3 -q -o "$OUT/1.zst" && sync "$OUT/1.zst""#,
    ],
};

const PARTCLONE_ZSTD: &str = "partclone|zstd -T0 -3";
const ZSTD: &str = "zstd -T0 -3";
const ZSTD_PARTCLONE: &str = "zstd|partclone";
const DD: &str = "dd oflag=direct";
const ZCAT_ZSTD: &str = "zcat|zstd -T0 -3";

/// What of the time of people's pipeline a capture may take.
const MOST_OF_CAPTURE: f64 = 0.35;
/// The same of a restoration.
const MOST_OF_RESTORE: f64 = 0.3;
/// And of an import.
const MOST_OF_IMPORT: f64 = 1.0;
/// Frames that can be unpacked in any order compress a little worse than one stream.
const MOST_OF_SIZE: f64 = 1.02;
/// What must be reached of the rate that compressing or writing alone has.
const LEAST_OF_BOUND: f64 = 0.8;

/// One run of each.
struct Turn {
    capture: [Timed; 3],
    restore: [Timed; 3],
    import: [Timed; 2],
}

/// Measures all figures.
///
/// # Errors
/// When a side cannot be set up, or one does not finish.
pub fn measure(runs: u32, options: &initramfs::Options) -> Result<Vec<Figure>> {
    let artefacts = shipped(options, || Ok(()))?;
    let image = step("preparing the image", image::filled)?;
    let lab = Lab::new("bench-formats", 46)?;
    let rig = Rig::start(&lab, &artefacts)?;
    let agent = Shipped::of(&artefacts, lab.dir())?.agent();
    let disk = LoopDisk::attach(&Host::blank_disk(&lab, "source", DISK_BYTES)?)?;
    let target = LoopDisk::attach(&Host::blank_disk(&lab, "target", DISK_BYTES)?)?;
    let mut scene = Scene::new(&lab, &rig, &target)?;
    for (name, value) in [
        ("AGENT", agent.as_path()),
        ("METALCAST", &artefacts.controller),
        ("SOCKET", rig.socket()),
        ("DISK", disk.path()),
    ] {
        scene.set(name, value);
    }
    let megabytes = step("preparing disks and files", || prepare(&mut scene, &rig, &image))?;
    let turn = |number| -> Result<Turn> {
        let turn = Turn {
            capture: CAPTURE.run(&scene, number)?,
            restore: RESTORE.run(&scene, number)?,
            import: IMPORT.run(&scene, number)?,
        };
        eprintln!("    {turn}");
        Ok(turn)
    };
    // The first does not count.
    step("a first run of each", || turn(0).map(drop))?;
    let turns = step("measuring", || (0..runs).map(turn).collect::<Result<Vec<_>>>())?;
    Ok(figures(&turns, megabytes))
}

/// The image in the store, on the disk, as the plain bytes of its blocks, and in a directory packed with gzip. Megabytes of
/// the plain bytes.
fn prepare(scene: &mut Scene<'_>, rig: &Rig, image: &Path) -> Result<f64> {
    let dir = scene.dir().to_owned();
    let text = image.to_str().context("the image's path is no text")?;
    rig.cli(&["image", "import", text, IMAGE])?;
    let packed = partclone_file(image)?;
    let name = packed.file_name().context("it has no name")?.to_string_lossy();
    scene.set("STORED", &dir.join("state/images").join(IMAGE).join("1"));
    scene.set("IMAGE", image);
    scene.set("PACKED", &packed);
    scene.set("GZ", &dir.join("gz"));
    scene.set("RAW", &dir.join("source"));
    scene.set("PLAIN", &dir.join("plain"));
    scene.set("GZ_NAME", Path::new(&format!("{}.gz.aa", name.trim_end_matches(".zst"))));
    scene.shell(
        r#"mkdir "$GZ" && cp "$IMAGE"/* "$GZ" && rm "$GZ"/*.zst* && zstd -dcq "$PACKED" >"$PLAIN"
           gzip -c "$PLAIN" >"$GZ/$GZ_NAME"
           "$AGENT" restore --image "$STORED" --partition sda1 --to "$DISK" --yes"#,
    )?;
    let bytes = dir.join("plain").metadata()?.len();
    scene.set("MIB", Path::new(&(bytes >> 20).to_string()));
    Ok(bytes as f64 / 1e6)
}

fn figures(turns: &[Turn], megabytes: f64) -> Vec<Figure> {
    let figure = |name: &str, unit, rival, pair: &dyn Fn(&Turn) -> (f64, f64), goal| Figure {
        name: name.to_owned(),
        unit,
        rival,
        pairs: turns.iter().map(pair).collect(),
        goal,
    };
    let seconds = |a: &Timed, b: &Timed| (a.seconds, b.seconds);
    let rate = |a: &Timed, b: &Timed| (megabytes / a.seconds, megabytes / b.seconds);
    let peak = |a: &Timed, b: &Timed| (a.peak_megabytes, b.peak_megabytes);
    let most = |most| Some(0.0..=most);
    let bound = Some(LEAST_OF_BOUND..=f64::INFINITY);
    vec![
        figure(
            "capture",
            "s",
            PARTCLONE_ZSTD,
            &|it| seconds(&it.capture[0], &it.capture[1]),
            most(MOST_OF_CAPTURE),
        ),
        figure(
            "capture, size",
            "MB",
            PARTCLONE_ZSTD,
            &|it| (it.capture[0].made_megabytes, it.capture[1].made_megabytes),
            most(MOST_OF_SIZE),
        ),
        figure(
            "capture, rate",
            "MB/s",
            ZSTD,
            &|it| rate(&it.capture[0], &it.capture[2]),
            bound.clone(),
        ),
        figure(
            "capture, peak memory",
            "MB",
            PARTCLONE_ZSTD,
            &|it| peak(&it.capture[0], &it.capture[1]),
            None,
        ),
        figure(
            "restore",
            "s",
            ZSTD_PARTCLONE,
            &|it| seconds(&it.restore[0], &it.restore[1]),
            most(MOST_OF_RESTORE),
        ),
        figure("restore, rate", "MB/s", DD, &|it| rate(&it.restore[0], &it.restore[2]), bound),
        figure(
            "restore, peak memory",
            "MB",
            ZSTD_PARTCLONE,
            &|it| peak(&it.restore[0], &it.restore[1]),
            None,
        ),
        figure(
            "import of gzip",
            "s",
            ZCAT_ZSTD,
            &|it| seconds(&it.import[0], &it.import[1]),
            most(MOST_OF_IMPORT),
        ),
        figure(
            "import of gzip, peak memory",
            "MB",
            ZCAT_ZSTD,
            &|it| peak(&it.import[0], &it.import[1]),
            None,
        ),
    ]
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, runs) in [
            (CAPTURE.name, &self.capture[..]),
            (RESTORE.name, &self.restore[..]),
            (IMPORT.name, &self.import[..]),
        ] {
            let seconds: Vec<_> = runs.iter().map(|run| format!("{:.2}", run.seconds)).collect();
            write!(f, "{name} {} s; ", seconds.join(" / "))?;
        }
        Ok(())
    }
}
