//! Names of members, as paths that stay below a directory.

/// Longest path and longest part of one that Linux takes.
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;

/// A relative path without `.` and empty parts; empty for the directory itself. As tar does, a leading
/// `/` is left out. What would lead out is refused.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.is_empty() {
        return Err("it has no name");
    }
    if name.contains(&0) {
        return Err("its name has a NUL in it");
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("its name leads out of the archive by `..`"),
            part if part.len() > MAX_NAME_BYTES => {
                return Err("a part of its name has more than 255 bytes");
            }
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    match path.len() > MAX_PATH_BYTES {
        true => Err("its name has more than 4095 bytes"),
        false => Ok(path),
    }
}

/// What a symbolic link says: anything that Linux takes.
pub(super) fn link_target(target: &[u8]) -> Result<Vec<u8>, &'static str> {
    match target {
        b"" => Err("a symbolic link to nothing"),
        target if target.contains(&0) => Err("what it links to has a NUL in it"),
        target if target.len() > MAX_PATH_BYTES => Err("what it links to has more than 4095 bytes"),
        target => Ok(target.to_vec()),
    }
}
