//! Inputs that are almost right: whatever is on standard input, in options, addresses or a bundle, the shim says what is
//! wrong with it, soon. The fuzz targets (`fuzz/`) do the same for longer, from the same seeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use pea_shim::dry;
use pea_shim::error::Error;
use testkit::mutation::Random;

/// No input may take longer: much more than any needs, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(2);

/// How many of each kind.
fn count() -> u64 {
    std::env::var("SHIM_HOSTILE_INPUTS").map_or(2000, |count| count.parse().expect("a number"))
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A few bytes changed, put in, taken out, or taken from another one.
fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..random.below(6) {
        let place = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.insert(place, random.below(256) as u8),
            1 => bytes.truncate(place),
            2 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                bytes.splice(place..place, other[from..].iter().copied());
            }
            3 if place < bytes.len() => drop(bytes.remove(place)),
            _ if place < bytes.len() => bytes[place] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

fn try_all(target: &str, take: fn(&[u8]) -> Result<(), Error>) {
    let seeds = seeds(target);
    let mut accepted = 0;
    for seed in 0..count() {
        let input = changed(&seeds, &mut Random::new(seed));
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| take(&input)));
        let shown = input.escape_ascii();
        match taken.unwrap_or_else(|_| panic!("{target}: seed {seed} panics: {shown}")) {
            Ok(()) => accepted += 1,
            Err(error) => assert!(!error.to_string().starts_with("a bug"), "{target}: seed {seed}: {error}: {shown}"),
        }
        assert!(begun.elapsed() < LONGEST, "{target}: seed {seed} took {:?}: {shown}", begun.elapsed());
    }
    assert!(accepted > count() / 20, "{target}: only {accepted} were accepted, so nothing much was tried");
}

#[test]
fn what_is_on_standard_input() {
    try_all("bootstrap", dry::bootstrap);
}

#[test]
fn what_travels_inside_requests() {
    try_all("options", dry::options);
}

#[test]
fn what_is_asked_of_a_sandbox() {
    try_all("sandbox", dry::sandbox);
}

#[test]
fn addresses_of_streams() {
    try_all("stream", dry::stream);
}

#[test]
fn configurations_of_bundles() {
    try_all("bundle", dry::bundle);
}
