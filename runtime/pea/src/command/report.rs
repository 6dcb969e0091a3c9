//! The one place that tells of failures and warnings.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};

use serde_json::json;
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::global::{Global, LogFormat};
use crate::error::Error;

/// One line for people on the standard error, and one in the log for the program that called.
///
/// The line on the standard error has the word "error" in it, which callers without a log look for.
/// Engines decode the log as a single object and look for exactly these keys; `time` must be RFC 3339.
pub fn report(global: &Global, error: &Error) {
    let message = error.to_string().replace('\n', " ");
    log(global, "error", &message);
    let _ = writeln!(io::stderr(), "pea: error: {message}");
}

/// Makes sure of the log before anything is done: nobody would learn of an error in the end.
pub fn check(global: &Global) -> Result<(), Error> {
    let Some(path) = &global.log else { return Ok(()) };
    let opened = File::options().append(true).create(true).open(path);
    opened.map(drop).map_err(|error| Error::io(format!("open log {}", path.display()), error))
}

fn log(global: &Global, level: &str, message: &str) {
    let Some(path) = &global.log else { return };
    let time = format!("{:.0}", jiff::Timestamp::now());
    let line = match global.log_format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": time}).to_string(),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
    };
    // A single write, so that lines of several processes do not mix.
    let written = File::options()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        let _ = writeln!(io::stderr(), "pea: write {}: {error}", path.display());
    }
}

/// Does `work`, and tells of what the library says meanwhile, as much of it as was asked for.
pub fn listening<T>(global: &Global, work: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(Listener(global.clone()), work)
}

/// Hears this process and its helpers; not what is cloned into a container.
struct Listener(Global);

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0.level() && metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "message" {
                let message = format!("{value:?}").replace('\n', " ");
                log(&self.0, level, &message);
                let _ = writeln!(io::stderr(), "pea: {level}: {message}");
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
