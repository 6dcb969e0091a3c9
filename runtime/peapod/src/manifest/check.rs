//! From the Kubernetes API's types to ours: what the API server would have checked and filled in.
//!
//! Everything wrong is gathered, so a manifest is mended in one go.

mod container;
mod pod;
mod volume;

use k8s_openapi::api::core::v1;

use super::{Pod, Problem};

/// Makes a [`Pod`] of a manifest.
///
/// # Errors
///
/// Everything that is wrong with it, in the order of checking. Never empty.
pub(super) fn pod(manifest: v1::Pod) -> Result<Pod, Vec<Problem>> {
    let mut problems = Problems::default();
    let pod = pod::convert(manifest, &mut problems);
    match pod {
        Some(pod) if problems.0.is_empty() => Ok(pod),
        _ => Err(problems.0),
    }
}

/// Where problems are gathered.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Problem::new(path, reason));
    }

    /// Gathers the reason of a failed check.
    fn check(&mut self, path: &str, result: Result<(), String>) {
        self.take(path, result);
    }

    /// Gathers the reason of a failed conversion, or returns what it gave.
    fn take<T>(&mut self, path: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.add(path, reason)).ok()
    }

    /// Finds a word in a table; an absent word is the type's default.
    fn word<T: Copy + Default>(&mut self, path: &str, word: Option<&str>, table: &[(&str, T)]) -> T {
        let Some(word) = word else { return T::default() };
        if let Some((_, value)) = table.iter().find(|(name, _)| *name == word) {
            return *value;
        }
        let names = table.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
        self.add(path, format!("{word:?} is not one of {}", names.collect::<Vec<_>>().join(", ")));
        T::default()
    }

    /// A user or group id: 0 to 2^31-1, as Kubernetes has it.
    fn id(&mut self, path: &str, id: Option<i64>) -> Option<u32> {
        let id = id?;
        let checked = i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok());
        if checked.is_none() {
            self.add(path, format!("{id} is not an id; it has to be 0 to {}", i32::MAX));
        }
        checked
    }

    /// Every value but the first of its kind is a problem at its path.
    fn unique<K: PartialEq>(&mut self, entries: impl IntoIterator<Item = (String, K)>, what: impl Fn(&K) -> String) {
        let mut seen: Vec<(String, K)> = Vec::new();
        for (path, key) in entries {
            match seen.iter().find(|(_, other)| *other == key) {
                Some((first, _)) => self.add(path, format!("{} (first in {first})", what(&key))),
                None => seen.push((path, key)),
            }
        }
    }
}
