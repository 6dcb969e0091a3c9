//! The command line of `pea`: what was asked for, and the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pea::command::main()
}
