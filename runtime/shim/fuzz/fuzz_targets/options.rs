//! The options of a runtime in both their types, an exec's process, limits; the first byte says what.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = pea_shim::dry::options(data) {
        assert!(!error.to_string().starts_with("a bug"), "{error}");
    }
});
