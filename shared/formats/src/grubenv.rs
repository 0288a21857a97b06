//! GRUB's environment block: the 1024 bytes in which a running system and the boot menu leave word
//! for one another.
//!
//! The size never changes, because GRUB rewrites the file's sectors in place without knowing the
//! file system. The agent may do the same. Changes come out byte for byte as with `grub-editenv set`.

/// Size of the block and of the file.
pub const BLOCK_BYTES: usize = 1024;
const HEADER: &[u8] = b"# GRUB Environment Block\n";
/// What fills the block up. A line that begins with it is a comment; `grub-editenv create` writes one.
const FILLER: u8 = b'#';

/// Why bytes are not an environment block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Another size than 1024.
    #[error("environment block has {bytes} bytes, not 1024")]
    Size {
        /// Its size.
        bytes: usize,
    },
    /// Does not begin with GRUB's header line.
    #[error("environment block does not begin with \"# GRUB Environment Block\"")]
    Header,
    /// Something other than filling follows the last whole line.
    #[error("environment block has an unfinished line at byte {offset}")]
    Unfinished {
        /// Where it starts.
        offset: usize,
    },
}

/// Why a variable cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Empty, or with `=`, `#` or a control character.
    #[error("{name:?} is no name for a variable")]
    Name {
        /// The name.
        name: String,
    },
    /// Contains a NUL, which ends a string for GRUB.
    #[error("the value for {name} has a NUL in it")]
    Value {
        /// The name.
        name: String,
    },
    /// No room is left.
    #[error(
        "the environment block is full: {name} needs {needed_bytes} bytes, {free_bytes} are free"
    )]
    Full {
        /// The name.
        name: String,
        /// Bytes of the new line beyond what the old one gives back.
        needed_bytes: usize,
        /// What there is.
        free_bytes: usize,
    },
}

/// An environment block: lines of `name=value`, in order, then filling.
#[derive(Clone, PartialEq, Eq)]
pub struct GrubEnv {
    block: [u8; BLOCK_BYTES],
}

impl Default for GrubEnv {
    fn default() -> Self {
        Self::new()
    }
}

impl GrubEnv {
    /// An empty block.
    pub fn new() -> Self {
        let mut block = [FILLER; BLOCK_BYTES];
        block[..HEADER.len()].copy_from_slice(HEADER);
        Self { block }
    }

    /// Takes the content of a `grubenv` file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let block: [u8; BLOCK_BYTES] =
            bytes.try_into().map_err(|_| ParseError::Size { bytes: bytes.len() })?;
        if !block.starts_with(HEADER) {
            return Err(ParseError::Header);
        }
        let mut offset = HEADER.len();
        while let Some(end) = line_end(&block, offset) {
            offset = end + 1;
        }
        let env = Self { block };
        match offset == env.used_bytes() {
            true => Ok(env),
            false => Err(ParseError::Unfinished { offset }),
        }
    }

    /// The file's content.
    pub fn as_bytes(&self) -> &[u8; BLOCK_BYTES] {
        &self.block
    }

    /// The value of a variable, escapes undone. A value that is not UTF-8 is given with replacement
    /// characters.
    pub fn get(&self, name: &str) -> Option<String> {
        let line = self.line(name)?;
        let value = &self.block[line.value];
        Some(String::from_utf8_lossy(&unescape(value)).into_owned())
    }

    /// All variables in order. Lines that are none are left out.
    pub fn variables(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.lines()
            .map(|line| (text(&self.block[line.name]), text(&unescape(&self.block[line.value]))))
            .collect()
    }

    /// Sets a variable, in the place where it was or behind the last one.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        let bad_name = |c: char| c == '=' || c == '#' || c == '\\' || c.is_control();
        if name.is_empty() || name.contains(bad_name) {
            return Err(SetError::Name { name: name.to_owned() });
        }
        if value.contains('\0') {
            return Err(SetError::Value { name: name.to_owned() });
        }
        let escaped = escape(value.as_bytes());
        let (replaced, new) = match self.line(name) {
            Some(line) => (line.value, escaped),
            None => {
                let end = self.used_bytes();
                (end..end, [name.as_bytes(), b"=", &escaped, b"\n"].concat())
            }
        };
        let free_bytes = BLOCK_BYTES - self.used_bytes();
        let needed_bytes = new.len().saturating_sub(replaced.len());
        if needed_bytes > free_bytes {
            return Err(SetError::Full { name: name.to_owned(), needed_bytes, free_bytes });
        }
        self.splice(replaced, &new);
        Ok(())
    }

    /// Removes a variable; nothing happens where there is none.
    pub fn unset(&mut self, name: &str) {
        if let Some(line) = self.line(name) {
            self.splice(line.name.start..line.value.end + 1, &[]);
        }
    }

    fn splice(&mut self, replaced: std::ops::Range<usize>, new: &[u8]) {
        let used = self.used_bytes();
        let mut content = self.block[..replaced.start].to_vec();
        content.extend_from_slice(new);
        content.extend_from_slice(&self.block[replaced.end..used]);
        content.resize(BLOCK_BYTES, FILLER);
        self.block.copy_from_slice(&content);
    }

    /// Bytes before the filling: everything up to the last line end that is not in the filling.
    fn used_bytes(&self) -> usize {
        self.block.iter().rposition(|&byte| byte != FILLER).map_or(HEADER.len(), |last| last + 1)
    }

    fn line(&self, name: &str) -> Option<Line> {
        self.lines().find(|line| &self.block[line.name.clone()] == name.as_bytes())
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        let mut at = HEADER.len();
        std::iter::from_fn(move || {
            while at < BLOCK_BYTES {
                let start = at;
                let end = line_end(&self.block, start)?;
                at = end + 1;
                if self.block[start] == FILLER {
                    continue;
                }
                let equals = self.block[start..end].iter().position(|&byte| byte == b'=');
                if let Some(equals) = equals {
                    let equals = start + equals;
                    return Some(Line { name: start..equals, value: equals + 1..end });
                }
            }
            None
        })
    }
}

/// Offsets in the block. The line feed is at the value's end.
#[derive(Clone)]
struct Line {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

/// The next line feed that no backslash takes back.
fn line_end(block: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while at < block.len() {
        match block[at] {
            b'\n' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn escape(value: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value {
        if matches!(byte, b'\\' | b'\n') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    plain
}

impl std::fmt::Debug for GrubEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.variables()).finish()
    }
}

#[cfg(test)]
mod tests;
