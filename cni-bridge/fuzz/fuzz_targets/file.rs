//! Files: a lease, an entry of the index, a `resolv.conf`, a list of plugins.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use testkit::mutation;

fuzz_target!(|data: &[u8]| {
    let _ = cni_bridge::dry::file(data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutation::change_text(data, size, max_size, seed)
        .unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});
