//! What the containerd at hand can do, by its version.

use std::process::Command;

/// What containerd says it is.
pub fn version() -> String {
    testkit::output(Command::new("containerd").arg("--version"))
}

/// Whether a containerd of that version runs pods with users of their own.
pub fn serves_users(version: &str) -> bool {
    is_since(version, (1, 7))
}

/// Whether a containerd of that version asks a shim of a sandbox itself for what is to be in it.
pub fn serves_sandboxes(version: &str) -> bool {
    is_since(version, (2, 0))
}

/// Whether a containerd of that version lets the shim make sandboxes.
pub fn serves_pauseless(version: &str) -> bool {
    is_since(version, (2, 0))
}

/// Whether a containerd of that version serves pods without pause containers as it does others: in the node's network, and
/// with options for the runtime. 2.1.9 crashes over the one, and cannot hand the other on.
pub fn serves_pauseless_fully(version: &str) -> bool {
    is_since(version, (2, 4))
}

fn is_since(version: &str, release: (u32, u32)) -> bool {
    let release_of = |word: &str| {
        let mut numbers = word.trim_start_matches('v').split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    version.split_whitespace().find_map(release_of).is_some_and(|found| found >= release)
}

/// Who makes the sandboxes of pods: containerd with a pause container, or (from 2.1) the shim.
///
/// `PEA_SANDBOXER=shim` has all tests of CRI run without pause containers.
pub fn sandboxer() -> String {
    std::env::var("PEA_SANDBOXER").unwrap_or_else(|_| "podsandbox".into())
}
