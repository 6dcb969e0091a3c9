//! The options of a sandbox: CRI's `PodSandboxConfig`, or peapod's own in JSON.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use testkit::mutation;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = pea_shim::dry::sandbox(data) {
        assert!(!error.to_string().starts_with("a bug"), "{error}");
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutation::change_text(data, size, max_size, seed)
        .unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});
