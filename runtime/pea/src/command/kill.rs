//! `pea kill`

use std::str::FromStr;

use clap::Args;
use nix::sys::signal::Signal;

use crate::Runtime;
use crate::error::{Error, ErrorKind};

/// Send a signal to a container
#[derive(Debug, Args)]
pub struct Arguments {
    /// Send it to every process of the container
    #[arg(short, long)]
    all: bool,
    /// The container's id
    id: String,
    /// A number, or a name with or without its SIG
    #[arg(default_value = "TERM")]
    signal: String,
}

pub fn run(runtime: &Runtime, arguments: &Arguments) -> Result<(), Error> {
    runtime.kill(&arguments.id, number(&arguments.signal)?, arguments.all)
}

fn number(text: &str) -> Result<i32, Error> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = match name.split_at_checked(5) {
        Some(("RTMIN", rest)) => offset(rest).map(|offset| libc::SIGRTMIN() + offset),
        Some(("RTMAX", rest)) => offset(rest).map(|offset| libc::SIGRTMAX() + offset),
        _ => None,
    };
    real_time
        .or_else(|| Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32))
        .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("unknown signal {text:?}")))
}

fn offset(text: &str) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, expected) in [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+3", 37), ("RTMAX", 64)]
        {
            assert_eq!(number(text), Ok(expected), "{text}");
        }
        number("SIGSHOES").expect_err("no signal");
    }
}
