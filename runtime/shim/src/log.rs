//! The daemon's own words: logrus text lines on standard error, which is containerd's `log` FIFO
//! where there is one and `/dev/null` otherwise.

use std::fmt::Display;
use std::io::Write;

/// Something failed that no client is told of.
pub fn error(message: impl Display) {
    line("error", message);
}

/// Something a person may want to know afterwards.
pub fn info(message: impl Display) {
    line("info", message);
}

fn line(level: &str, message: impl Display) {
    let text = format!("time=\"{:.9}\" level={level} msg={:?}\n", jiff::Timestamp::now(), message.to_string());
    // A full FIFO (containerd is away) must not stop the pod: the line is lost instead.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
