//! The address of a stream.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = pea_shim::dry::stream(data) {
        assert!(!error.to_string().starts_with("a bug"), "{error}");
    }
});
