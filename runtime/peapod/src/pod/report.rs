//! What a keeper tells the `run` that waits for it: lines of JSON through a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Phase;

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Every container was started.
    Ready {
        /// The pod's addresses; none for a pod in the node's network.
        addresses: Vec<IpAddr>,
    },
    /// An init container keeps failing; the keeper goes on trying.
    Retrying {
        /// Which one, and how it ends.
        message: String,
    },
    /// The pod's life is over already.
    Over {
        /// How.
        phase: Phase,
        /// What happened, for a failed one.
        message: String,
    },
    /// The pod could not be brought up, and nothing of it is left.
    Failed {
        /// Why.
        message: String,
    },
}

/// The keeper's end. A reader that is gone is no failure: the keeper goes on without.
#[derive(Debug, Default)]
pub struct Reporter {
    pipe: Option<File>,
}

impl Reporter {
    /// Reports go to `pipe`.
    pub fn new(pipe: File) -> Reporter {
        Reporter { pipe: Some(pipe) }
    }

    /// Whether somebody still waits for news.
    pub fn is_awaited(&self) -> bool {
        self.pipe.is_some()
    }

    /// Sends the news; each of them ends the wait, so the pipe is closed after it.
    pub fn send(&mut self, report: &Report) {
        if let (Some(mut pipe), Ok(line)) = (self.pipe.take(), serde_json::to_string(report)) {
            let _ = writeln!(pipe, "{line}");
        }
    }
}

/// The end of the `run` that waits.
#[derive(Debug)]
pub struct Reports {
    lines: BufReader<PipeReader>,
}

impl Reports {
    /// Reads from `pipe`.
    pub fn new(pipe: PipeReader) -> Reports {
        Reports { lines: BufReader::new(pipe) }
    }

    /// Waits for the news; `None` when the keeper ended without any.
    pub fn wait(mut self) -> Option<Report> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}
