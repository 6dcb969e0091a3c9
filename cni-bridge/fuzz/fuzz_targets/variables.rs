//! `CNI_ARGS` and the other variables, a line each.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = cni_bridge::dry::variables(&String::from_utf8_lossy(data));
});
