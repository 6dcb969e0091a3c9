//! Listening to what the engine logs.
//!
//! Its errors lose their causes on the way between its processes: what arrives is "failed to prepare rootfs". The
//! cause is in what it logs, so the first errors logged are kept.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Between the message of a line and its fields.
pub const SEPARATOR: char = '\t';

/// The innermost errors are logged first; later ones add no more than where they passed.
const MOST: u8 = 3;

/// Writes the first errors that each process logs into a pipe, a line each.
pub struct Listener {
    pipe: File,
    told: AtomicU8,
}

impl Listener {
    /// Listens for the rest of this process's life, and its children's.
    pub fn install(pipe: File) {
        // Fails where somebody listens already, who then hears it.
        let _ = tracing::subscriber::set_global_default(Self { pipe, told: AtomicU8::new(0) });
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.is_event()
    }

    fn event(&self, event: &Event<'_>) {
        if self.told.fetch_add(1, Ordering::Relaxed) >= MOST {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let _ = (&self.pipe).write_all(format!("{}{SEPARATOR}{}\n", line.message, line.fields).as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message, then the fields in parentheses.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " ({name}: {value:?})"),
        };
    }
}
