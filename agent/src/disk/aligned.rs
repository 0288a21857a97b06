//! A buffer that `O_DIRECT` accepts (open(2)): memory, offset and length are whole pages.

/// Alignment in bytes that satisfies every disk with sectors up to 4 KiB.
pub(super) const ALIGN: usize = 4096;

/// Memory that starts at a multiple of [`ALIGN`].
#[derive(Debug, Default)]
pub(super) struct Aligned {
    memory: Vec<u8>,
}

impl Aligned {
    /// At least `bytes` bytes, of any content.
    pub(super) fn slice(&mut self, bytes: usize) -> &mut [u8] {
        if self.memory.len() < bytes + ALIGN {
            self.memory = vec![0; bytes + ALIGN];
        }
        let skip = self.memory.as_ptr().align_offset(ALIGN);
        &mut self.memory[skip..skip + bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_starts_on_a_page() {
        let mut buffer = Aligned::default();
        for bytes in [1, 4096, 100_000, 8192] {
            let slice = buffer.slice(bytes);
            assert_eq!((slice.as_ptr() as usize % ALIGN, slice.len()), (0, bytes));
        }
    }
}
