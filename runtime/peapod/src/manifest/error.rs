//! What can be wrong with a manifest, said so that the person can mend it.

use std::fmt;
use std::io;

/// One thing that is wrong, at one place of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path from the top of the document, such as `spec.containers[0].image`.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, reason: impl Into<String>) -> Problem {
        Problem { path: path.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The document as a whole has no path.
        if self.path.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.path, self.reason) }
    }
}

/// Why a manifest was refused. Its text is the whole message, with the file named on every line.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the manifest {file}: {source}")]
    Read {
        /// The file as it was named.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// The text is neither YAML nor JSON. The reason carries line and column.
    #[error("{file}: {reason}")]
    Syntax {
        /// The file as it was named.
        file: String,
        /// What the parser found, and where.
        reason: String,
    },
    /// There is no document in the file.
    #[error("{file}: the manifest holds no document; a Pod (apiVersion: v1, kind: Pod) is expected")]
    Empty {
        /// The file as it was named.
        file: String,
    },
    /// The document is well formed but does not describe a pod that can be run here.
    #[error("{}", lines(file, problems))]
    Invalid {
        /// The file as it was named, with the document's number where it holds several.
        file: String,
        /// Everything that is wrong, in the order of the document. Never empty.
        problems: Vec<Problem>,
    },
}

fn lines(file: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{file}: {problem}")).collect::<Vec<_>>().join("\n")
}
