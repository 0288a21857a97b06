//! What the fuzzers found worth keeping, run again: every target must return on every file of its corpus.

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::TARGETS;

#[test]
fn every_target_returns_on_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            // A panic does not say on which file.
            println!("{}", path.display());
            target(&bytes);
            // Cut and damaged in places that depend on nothing but the file.
            for cut in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                target(&bytes[..cut]);
                let mut damaged = bytes.clone();
                damaged[cut] ^= 0xff;
                target(&damaged);
            }
            count += 1;
        }
        assert!(count > 0, "no corpus for {name}");
    }
}
