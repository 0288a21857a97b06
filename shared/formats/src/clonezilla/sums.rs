//! Checksum files beside an image: `<hex>  <name>` for each file that existed when they were made.

use super::{DirectoryError, Files};
use crate::stream::{Algorithm, Expected};
use std::collections::BTreeMap;

/// Names of the checksum files.
pub(super) const FILES: [&str; 4] = ["MD5SUMS", "SHA1SUMS", "B2SUMS", "B3SUMS"];

/// What the files of a directory must hash to.
pub(super) struct Sums(BTreeMap<String, Vec<Expected>>);

impl Sums {
    pub(super) fn read(files: &Files) -> Result<Self, DirectoryError> {
        let mut sums: BTreeMap<String, Vec<Expected>> = BTreeMap::new();
        for algorithm in Algorithm::ALL {
            let file = algorithm.file_name();
            for (number, line) in files.text(file)?.unwrap_or_default().lines().enumerate() {
                if line.trim().is_empty() {
                    continue;
                }
                let (name, digest) = parse_line(line, algorithm).ok_or_else(|| {
                    let what = format!("line {} is not a checksum and a file name", number + 1);
                    DirectoryError::invalid(file, what)
                })?;
                sums.entry(name).or_default().push(Expected { algorithm, digest });
            }
        }
        Ok(Self(sums))
    }

    /// What a file must hash to.
    pub(super) fn of(&self, name: &str) -> Vec<Expected> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// Files that have a checksum but are not there.
    pub(super) fn missing(&self, files: &Files) -> Vec<String> {
        let absent = |(name, expected): (&String, &Vec<Expected>)| {
            let list = expected.first()?.algorithm.file_name();
            (!files.entries.contains_key(name)).then(|| format!("{name} (listed in {list})"))
        };
        self.0.iter().filter_map(absent).collect()
    }
}

fn parse_line(line: &str, algorithm: Algorithm) -> Option<(String, Vec<u8>)> {
    let (hex, name) = line.split_once([' ', '\t'])?;
    let name = name.trim_start_matches([' ', '\t', '*']);
    let name = name.strip_prefix("./").unwrap_or(name);
    if name.is_empty() || name.contains('/') || hex.len() != algorithm.digest_bytes() * 2 {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let digest: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| Some((digit(pair.first()?)? * 16 + digit(pair.get(1)?)?) as u8))
        .collect();
    Some((name.to_owned(), digest?))
}
