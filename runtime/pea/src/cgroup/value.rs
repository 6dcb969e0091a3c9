//! One value to be written: for which key of the specification, into which file of which cgroup.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, reason};

/// One value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value {
    /// The key it comes from: `linux.resources.memory.limit`.
    key: String,
    /// The cgroup's directory in the hierarchy that has the controller.
    dir: PathBuf,
    /// File and content, the best first; the first file that is there is written.
    choices: Vec<(String, String)>,
    /// What to do when there is no such file or the kernel refuses.
    necessity: Necessity,
    /// Whether it would slow or hinder the set-up of the container.
    pub late: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Necessity {
    /// Without it the container is not what was asked for.
    Required,
    /// Where there is no such file it is as good as written.
    IfThere,
    /// Whatever the kernel says to it (a key that newer kernels only pretend to have).
    IfPossible,
}

impl Value {
    /// `text` for the file `file` of the cgroup at `dir`.
    pub fn new(key: impl Into<String>, dir: &Path, file: impl Into<String>, text: impl ToString) -> Self {
        Self {
            key: key.into(),
            dir: dir.to_owned(),
            choices: vec![(file.into(), text.to_string())],
            necessity: Necessity::Required,
            late: false,
        }
    }

    /// Another file with the same meaning, for where the ones before do not exist.
    pub fn or(mut self, file: impl Into<String>, text: impl ToString) -> Self {
        self.choices.push((file.into(), text.to_string()));
        self
    }

    /// Nothing is lost where there is no such file.
    pub fn if_there(self) -> Self {
        Self { necessity: Necessity::IfThere, ..self }
    }

    /// A refusal is of no consequence.
    pub fn if_possible(self) -> Self {
        Self { necessity: Necessity::IfPossible, ..self }
    }

    /// To be written when the container has been set up.
    pub fn late(self) -> Self {
        Self { late: true, ..self }
    }

    /// The first choice, for tests and for what must be compared before it is written.
    pub fn first(&self) -> (&Path, &str, &str) {
        let (file, text) = self.choices.first().map_or(("", ""), |(file, text)| (file.as_str(), text.as_str()));
        (&self.dir, file, text)
    }

    /// What it would write to that file.
    pub fn text_for(&self, file: &str) -> Option<&str> {
        self.choices.iter().find(|(name, _)| name == file).map(|(_, text)| text.as_str())
    }

    /// Whether it is one of that controller.
    pub fn is_for(&self, controller: &str) -> bool {
        self.first().1.split('.').next() == Some(controller)
    }

    /// The controller without which it cannot be set, and its key, if it is a value for the cgroup at `dir`.
    pub fn needs(&self, dir: &Path) -> Option<(&str, &str)> {
        let (_, file, _) = self.first();
        let controller = file.split('.').next().filter(|controller| *controller != "cgroup")?;
        (self.necessity == Necessity::Required && self.dir == dir).then_some((controller, &self.key))
    }

    fn write(&self) -> Result<(), Refusal<'_>> {
        let mut missing = None;
        for (file, text) in &self.choices {
            // Line by line: files with a line a device take one at a time.
            let written = text.split('\n').filter(|line| !line.is_empty()).try_for_each(|line| {
                write(&self.dir.join(file), line).map_err(|error| Refusal { value: self, file, line, error })
            });
            match written {
                Err(refusal) if refusal.error.kind() == io::ErrorKind::NotFound => missing = Some(refusal),
                written => return written.or_else(Refusal::weigh),
            }
        }
        missing.map_or(Ok(()), Refusal::weigh)
    }
}

/// The kernel's answer to a value.
struct Refusal<'a> {
    value: &'a Value,
    file: &'a str,
    line: &'a str,
    error: io::Error,
}

impl Refusal<'_> {
    /// Whether it counts.
    fn weigh(self) -> Result<(), Self> {
        let missing = self.error.kind() == io::ErrorKind::NotFound;
        match self.value.necessity {
            Necessity::IfPossible => Ok(()),
            Necessity::IfThere if missing => Ok(()),
            _ => Err(self),
        }
    }

    /// Whether another value, written after this one, may have been in the way.
    fn may_pass_later(&self) -> bool {
        matches!(self.error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY))
    }

    fn into_error(self) -> Error {
        let Self { value, file, line, error } = self;
        let path = value.dir.join(file);
        let advice = match error.raw_os_error() {
            Some(libc::EBUSY) if file.starts_with("memory.") => " (more than that is in use)",
            Some(libc::ENOENT) if value.dir.is_dir() => " (the kernel, or the cgroup above, does not have it enabled)",
            _ => "",
        };
        let text = format!("{}: write {line} to {}: {}{advice}", value.key, path.display(), reason(&error));
        Error::new(Error::io("", error).kind(), text)
    }
}

/// Writes them in their order.
///
/// Some depend on each other, as a quota on its period, and which has to come first depends on what was set before: a
/// value that is refused has another try after the others.
pub fn write_all<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<(), Error> {
    let mut refused = Vec::new();
    for value in values {
        match value.write() {
            Ok(()) => {}
            Err(refusal) if refusal.may_pass_later() => refused.push(value),
            Err(refusal) => return Err(refusal.into_error()),
        }
    }
    refused.into_iter().try_for_each(Value::write).map_err(Refusal::into_error)
}

/// Writes to a file of a cgroup: opened and not created, for elsewhere there is no such file; in one call, for each
/// call is one command.
pub fn write(file: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(file)?.write_all(text.as_bytes())
}

/// The error of a key for which this machine has no means.
pub fn unsupported(key: &str, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{key}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(dir: &Path, file: &str) -> Option<String> {
        fs::read_to_string(dir.join(file)).ok()
    }

    #[test]
    fn the_first_file_that_exists_is_written() {
        let dir = testkit::scratch();
        fs::write(dir.path().join("io.weight"), "").expect("a file");
        let value = Value::new("key", dir.path(), "io.bfq.weight", 10).or("io.weight", 1);
        write_all([&value]).expect("a file to write");
        assert_eq!(text(dir.path(), "io.weight").as_deref(), Some("1"));
        assert_eq!(text(dir.path(), "io.bfq.weight"), None);
    }

    #[test]
    fn a_missing_file_is_an_error_only_where_it_matters() {
        let dir = testkit::scratch();
        let value = Value::new("linux.resources.memory.swap", dir.path(), "memory.swap.max", "max");
        write_all([&value.clone().if_there()]).expect("not needed");
        let error = write_all([&value]).expect_err("no file").to_string();
        let expected = format!(
            "linux.resources.memory.swap: write max to {}/memory.swap.max: no such file or directory",
            dir.path().display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn a_refusal_names_key_value_and_file() {
        // It takes no value at all.
        let value = Value::new("linux.resources.x", Path::new("/proc/self"), "clear_refs", "shoes");
        let error = write_all([&value]).expect_err("no number").to_string();
        assert_eq!(error, "linux.resources.x: write shoes to /proc/self/clear_refs: invalid argument");
        write_all([&value.if_possible()]).expect("of no consequence");
    }
}
