//! What a keeper tells the `run` that waits for it: lines of JSON through a pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::IpAddr;
use std::os::fd::IntoRawFd;

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

impl Report {
    /// Whether the keeper has nothing more to do after this news. It is waited for then, so that `run` leaves no
    /// process behind.
    fn is_last_act(&self) -> bool {
        matches!(self, Report::Over { .. } | Report::Failed { .. })
    }
}

/// The keeper's end. A reader that is gone is no failure: the keeper goes on without.
#[derive(Debug, Default)]
pub struct Reporter {
    pipe: Option<File>,
    told: bool,
}

impl Reporter {
    /// Reports go to `pipe`.
    pub fn new(pipe: File) -> Reporter {
        Reporter { pipe: Some(pipe), told: false }
    }

    /// Whether somebody still waits for news.
    pub fn is_awaited(&self) -> bool {
        self.pipe.is_some() && !self.told
    }

    /// Sends the news, once: any of them is what was waited for.
    pub fn send(&mut self, report: &Report) {
        if !self.is_awaited() {
            return;
        }
        if let (Some(pipe), Ok(line)) = (&mut self.pipe, serde_json::to_string(report)) {
            let _ = writeln!(pipe, "{line}");
        }
        self.told = true;
        match self.pipe.take() {
            // Closed by the kernel when this process is gone, and not before: its end is waited for.
            Some(pipe) if report.is_last_act() => drop(pipe.into_raw_fd()),
            _ => {}
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

    /// Waits for the news, and for the keeper's end when that is what follows; `None` when it ended without any.
    pub fn wait(self) -> Option<Report> {
        let mut lines = self.lines.lines().map_while(Result::ok);
        let report = serde_json::from_str(&lines.next()?).ok();
        lines.for_each(drop);
        report
    }
}
