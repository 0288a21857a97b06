//! Integers within bytes whose length was checked before.

macro_rules! integer {
    ($name:ident, $kind:ty, $from:ident) => {
        /// The integer at an offset, which the bytes must have.
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $kind {
            let mut raw = [0; size_of::<$kind>()];
            raw.copy_from_slice(&bytes[at..at + size_of::<$kind>()]);
            <$kind>::$from(raw)
        }
    };
}

integer!(le_u16, u16, from_le_bytes);
integer!(le_u32, u32, from_le_bytes);
integer!(le_u64, u64, from_le_bytes);
integer!(be_u16, u16, from_be_bytes);
integer!(be_u32, u32, from_be_bytes);
integer!(be_u64, u64, from_be_bytes);
