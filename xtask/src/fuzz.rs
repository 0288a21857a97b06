//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, instrumented by the stable compiler.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use metalcast_tests::paths;
use metalcast_tests::process::run_visibly;
use metalcast_tests::progress::step;

use crate::cargo::cargo;
use crate::setup;

/// Edge counters, and the operands of comparisons, so that magic numbers are found.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// With the target named, build scripts and macros are not instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Memory of one target, in MiB: all of them hold little more than their input.
const MEMORY_MIB: u32 = 512;

/// Seconds that one input may take.
const INPUT_SECONDS: u32 = 10;

/// What `cargo xtask fuzz` takes.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Targets, such as dhcp or partclone; all of them, one after the other, if none is named
    targets: Vec<String>,
    /// How long each is run
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Add what reached new code to the corpus that every test run replays
    #[arg(long)]
    keep: bool,
}

/// Builds and runs the fuzzers.
///
/// # Errors
/// When one does not build, or finds an input that its target does not return from; libFuzzer says which file holds it.
pub fn run(options: &Options) -> Result<()> {
    setup::install("fuzzing", &["g++"])?;
    let dir = paths::workspace().join("tests/fuzz");
    let target = paths::target().join("fuzz");
    step("building the fuzzers", || {
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "--target", TRIPLE, "--target-dir"]);
        build.arg(&target).current_dir(&dir).env("RUSTFLAGS", INSTRUMENTATION);
        run_visibly(&mut build)
    })?;
    let known = names(&dir.join("targets"))?;
    let wanted = if options.targets.is_empty() { &known } else { &options.targets };
    for name in wanted {
        ensure!(known.contains(name), "no fuzz target {name}; there are {}", known.join(", "));
        let program = target.join(TRIPLE).join("release").join(name);
        let corpus = dir.join("corpus").join(name);
        let found = directory(target.join("corpus").join(name))?;
        let artefacts = directory(target.join("artefacts").join(name))?;
        step(&format!("fuzzing {name} for {} s", options.seconds), || {
            let mut fuzz = std::process::Command::new(&program);
            fuzz.arg(format!("-max_total_time={}", options.seconds));
            fuzz.arg(format!("-rss_limit_mb={MEMORY_MIB}"));
            fuzz.arg(format!("-timeout={INPUT_SECONDS}"));
            fuzz.arg(format!("-artifact_prefix={}/", artefacts.display()));
            fuzz.args(["-print_final_stats=1", "-verbosity=1"]).arg(&found).arg(&corpus);
            run_visibly(&mut fuzz)
        })?;
        if options.keep {
            step(&format!("keeping what {name} reached"), || {
                let mut merge = std::process::Command::new(&program);
                run_visibly(merge.args(["-merge=1", "-verbosity=0"]).arg(&corpus).arg(&found))
            })?;
        }
    }
    Ok(())
}

/// Names of the files in a directory, without their ends.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn directory(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}
