//! `containerd-shim-pea-v2`: parse, dispatch, map to an exit code.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use containerd_shim_protos::protobuf::Message;
use pea_shim::bootstrap::{Action, Arguments, Environment, Start};
use pea_shim::error::Error;
use pea_shim::{cleanup, info, launch};

const USAGE: &str = "\
containerd-shim-pea-v2 is started by containerd (runtime io.containerd.pea.v2) and by peapod, not by hand.

  -namespace NS -id ID [-address ADDRESS] start            start the shim of the bundle in the working directory
  -namespace NS -id ID [-bundle DIRECTORY] delete          clear up what a shim has left of a bundle
  -v                                                       print the version
  -info                                                    print a RuntimeInfo message";

fn main() -> ExitCode {
    match run() {
        Ok(output) => match std::io::stdout().write_all(&output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("containerd-shim-pea-v2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Vec<u8>, Error> {
    let arguments =
        Arguments::parse(std::env::args_os().skip(1)).map_err(|error| Error::invalid(format!("{error}\n\n{USAGE}")))?;
    match arguments.action {
        Action::Start => {
            let start = Start::of(&arguments, &Environment::of_process(), &stdin()?)?;
            start.answer(&launch::start(&start)?)
        }
        Action::Delete => {
            let response = cleanup::delete(&arguments)?;
            response.write_to_bytes().map_err(|source| Error::internal(format!("encode the answer: {source}")))
        }
        Action::Version => Ok(info::version().into_bytes()),
        Action::Info => info::info(&stdin()?),
        Action::None => Err(Error::invalid(format!("nothing to do\n\n{USAGE}"))),
    }
}

/// The most there may be on standard input: options are a few hundred bytes, and a daemon that writes for ever must not
/// fill the memory.
const LONGEST_INPUT: u64 = 4 << 20;

/// All of standard input; a terminal is a person, who has nothing to say here.
fn stdin() -> Result<Vec<u8>, Error> {
    let mut input = Vec::new();
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let mut stdin = stdin.take(LONGEST_INPUT + 1);
        stdin.read_to_end(&mut input).map_err(|source| Error::io("read standard input", source))?;
    }
    if input.len() as u64 > LONGEST_INPUT {
        return Err(Error::invalid(format!("there are more than {LONGEST_INPUT} bytes on standard input")));
    }
    Ok(input)
}
