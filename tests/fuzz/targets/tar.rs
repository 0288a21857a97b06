#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| metalcast_fuzz::tar(bytes));
