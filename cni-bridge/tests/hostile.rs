//! Texts that are almost right: whatever is on stdin, in a variable or in a file, a call says what is wrong with it, soon.
//! The fuzz targets (`fuzz/`) do the same for longer. `CNI_HOSTILE_TEXTS=100000` sets how many texts of each kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use cni_bridge::dry;
use cni_bridge::spec::Error;
use serde_json::Value;
use testkit::mutation::{Random, change, spoil};

/// No text may take longer: much more than any needs, even on a busy machine.
const LONGEST: Duration = Duration::from_secs(2);

fn count() -> u64 {
    std::env::var("CNI_HOSTILE_TEXTS").map_or(1000, |count| count.parse().expect("a number"))
}

fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(kind);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Gives `take` what `make` makes for each seed. Some must be accepted, or nothing much was tried.
fn try_all(make: impl Fn(&mut Random) -> Vec<u8>, take: impl Fn(&[u8]) -> Result<(), Error>) {
    let mut accepted = 0;
    for seed in 0..count() {
        let text = make(&mut Random::new(seed));
        let begun = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| take(&text)));
        let shown = String::from_utf8_lossy(&text);
        match taken.unwrap_or_else(|_| panic!("seed {seed} panics: {shown}")) {
            Ok(()) => accepted += 1,
            Err(error) => assert!(error.code > 0 && !error.msg.is_empty(), "seed {seed}: {error:?}: {shown}"),
        }
        assert!(begun.elapsed() < LONGEST, "seed {seed} took {:?}: {shown}", begun.elapsed());
    }
    assert!(accepted * 100 > count(), "{accepted} of {} accepted", count());
}

/// A document of the corpus with one to four changes, and now and then spoilt.
fn changed(corpus: &[Value], random: &mut Random) -> Vec<u8> {
    let mut document = random.pick(corpus).clone();
    let mut other = random.pick(corpus).clone();
    for _ in 0..=random.below(3) {
        change(&mut document, &mut other, random);
    }
    let mut text = serde_json::to_vec(&document).unwrap();
    if random.once_in(8) {
        spoil(&mut text, random);
    }
    text
}

fn documents(texts: &[Vec<u8>]) -> Vec<Value> {
    texts.iter().map(|text| serde_json::from_slice(text).expect("JSON")).collect()
}

#[test]
fn any_stdin_is_planned_or_refused() {
    let corpus = documents(&seeds("stdin"));
    for document in &corpus {
        dry::stdin(document.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {document}"));
    }
    try_all(|random| changed(&corpus, random), dry::stdin);
}

#[test]
fn any_variables_are_taken_or_refused() {
    let corpus = seeds("variables");
    let make = |random: &mut Random| {
        let mut text = random.pick(&corpus).clone();
        spoil(&mut text, random);
        text
    };
    try_all(make, |text| dry::variables(&String::from_utf8_lossy(text)));
}

#[test]
fn any_file_is_read_or_refused() {
    let corpus = seeds("file");
    for text in &corpus {
        let _ = dry::file(text);
    }
    let lists = testkit::testdata("conflists");
    let lists = fs::read_dir(lists).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let lists = documents(&lists.collect::<Vec<_>>());
    let make = |random: &mut Random| {
        if random.once_in(2) {
            return changed(&lists, random);
        }
        let mut text = random.pick(&corpus).clone();
        spoil(&mut text, random);
        text
    };
    try_all(make, dry::file);
}
