//! The one place that tells of a failure.

use std::fs::File;
use std::io::{self, Write};

use serde_json::json;

use super::{Global, LogFormat};
use crate::error::Error;

/// One line for people on the standard error, and one in the log for the program that called.
///
/// Engines decode the log as a single object and look for exactly these keys; `time` must be RFC 3339.
pub fn report(global: &Global, error: &Error) {
    let message = error.to_string().replace('\n', " ");
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if let Some(path) = &global.log {
        let line = match global.log_format {
            LogFormat::Json => json!({"level": "error", "msg": message, "time": time}).to_string(),
            LogFormat::Text => format!("time=\"{time}\" level=error msg={message:?}"),
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
    let _ = writeln!(io::stderr(), "pea: {message}");
}
