//! Standard input of `start` and `-info`: `BootstrapParams`, a `RuntimeRequest`, or an `Any` with options.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = pea_shim::dry::bootstrap(data) {
        assert!(!error.to_string().starts_with("a bug"), "{error}");
    }
});
