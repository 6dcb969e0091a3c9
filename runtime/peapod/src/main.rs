//! The command line: parse, do, print the one error, exit.

use std::process::ExitCode;

use clap::Parser;
use peapod::command::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => ExitCode::from(code),
        // Who reads our output has had enough: `peapod logs web | head` is no failure.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peapod: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
