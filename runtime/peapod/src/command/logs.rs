//! `logs`: what a container printed, from the files its shim writes.

use std::collections::VecDeque;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::output::print;
use super::{Code, Context, container};
use crate::error::{Error, IoContext, Result};
use crate::files::make_dir;
use crate::pod::{LogReader, Places, Record, Status};

/// Show what a container printed.
#[derive(clap::Args, Debug)]
pub struct Logs {
    /// The pod
    pod: String,
    /// The container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on until the container has ended for good
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// The run before the current one
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

impl Logs {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let (places, record) = context.open(&self.pod)?;
        let container = container(&record, self.container.as_deref())?;
        let log = Log { places: &places, record: &record, container };
        if self.follow {
            log.follow(self.tail)?;
        } else {
            let mut reader = log.open(log.chosen(self.previous)?)?;
            show(&mut reader, self.tail)?;
        }
        Ok(None)
    }
}

/// The logs of one container.
struct Log<'a> {
    places: &'a Places,
    record: &'a Record,
    container: &'a str,
}

/// Where a container stands, as far as its log is concerned.
struct Progress {
    /// The run whose log is being written; none before the first.
    attempt: Option<u32>,
    /// There will be no other.
    done: bool,
}

impl Log<'_> {
    fn open(&self, attempt: u32) -> Result<LogReader> {
        LogReader::open(&self.places.log(&self.record.uid, self.container, attempt))
    }

    fn progress(&self) -> Result<Progress> {
        let status = Status::load(self.places, self.record)?;
        let over = status.phase.is_final() || !self.places.record().exists();
        let container = status.all().map(|(_, c)| c).find(|c| c.name == self.container);
        Ok(Progress { attempt: container.and_then(|c| c.attempt), done: over || container.is_none_or(|c| c.done) })
    }

    /// The run to show.
    fn chosen(&self, previous: bool) -> Result<u32> {
        let none = |what: &str| Error::pod(&self.places.key, format!("container {} {what}", self.container));
        let current = self.progress()?.attempt.ok_or_else(|| none("has not been started yet"))?;
        match (previous, current.checked_sub(1)) {
            (false, _) => Ok(current),
            (true, Some(attempt)) => Ok(attempt),
            (true, None) => Err(none("has had no run before this one")),
        }
    }

    /// Shows the log as it grows, through restarts, to its end.
    fn follow(&self, mut tail: Option<usize>) -> Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("watching", &self.places.dir)?;
        let files = self.places.log(&self.record.uid, self.container, 0);
        let files = files.parent().unwrap_or(Path::new("/")).to_owned();
        make_dir(&files)?;
        // Written to in place; the status is renamed into its directory.
        watch(&inotify, &files, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
        watch(&inotify, &self.places.dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVE_SELF)?;
        let mut current: Option<(u32, LogReader)> = None;
        loop {
            // Looked at before the log is read: what was printed before that is read for certain.
            let progress = self.progress()?;
            if let Some((_, reader)) = &mut current {
                show(reader, None)?;
            }
            match (&current, progress.attempt) {
                (None, Some(attempt)) => current = self.show_run(attempt, tail.take())?,
                (Some((shown, _)), Some(attempt)) if attempt > *shown => current = self.show_run(shown + 1, None)?,
                _ if progress.done => return Ok(()),
                _ => {
                    inotify.read_events().context("watching", &self.places.dir)?;
                }
            }
        }
    }

    /// Shows what there is of a run's log. The log of a run long past may be gone: then it counts as shown.
    fn show_run(&self, attempt: u32, tail: Option<usize>) -> Result<Option<(u32, LogReader)>> {
        let mut reader = self.open(attempt)?;
        show(&mut reader, tail)?;
        Ok(Some((attempt, reader)))
    }
}

fn watch(inotify: &Inotify, dir: &Path, events: AddWatchFlags) -> Result<()> {
    inotify.add_watch(dir, events).context("watching", dir)?;
    Ok(())
}

/// How much is printed at a time.
const CHUNK: usize = 64 * 1024;

/// Prints what there is to read, or the last `tail` lines of it.
fn show(reader: &mut LogReader, tail: Option<usize>) -> Result<()> {
    let Some(tail) = tail else {
        let mut some = Vec::new();
        while let Some(text) = reader.entry()? {
            some.extend_from_slice(&text);
            // One write for many lines; what is there at the end is shown at once.
            if some.len() >= CHUNK {
                print(&some)?;
                some.clear();
            }
        }
        return print(some);
    };
    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
    let mut line = Vec::new();
    while let Some(text) = reader.entry()? {
        line.extend_from_slice(&text);
        if line.ends_with(b"\n") {
            last.push_back(std::mem::take(&mut line));
        }
        if last.len() > tail {
            last.pop_front();
        }
    }
    last.iter().try_for_each(print)?;
    print(line)
}
