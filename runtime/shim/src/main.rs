//! `containerd-shim-pea-v2`: parse, dispatch, map to an exit code.

use std::io::Write;
use std::process::ExitCode;

use containerd_shim_protos::protobuf::Message;
use pea_shim::bootstrap::{Action, Arguments, Environment, Start};
use pea_shim::error::Error;
use pea_shim::{Heap, cleanup, info, input, launch};

#[global_allocator]
static HEAP: Heap = Heap;

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
            let start = Start::of(&arguments, &Environment::of_process(), &input::read()?)?;
            start.answer(&launch::start(&start)?)
        }
        Action::Delete => {
            let response = cleanup::delete(&arguments)?;
            response.write_to_bytes().map_err(|source| Error::internal(format!("encode the answer: {source}")))
        }
        Action::Version => Ok(info::version().into_bytes()),
        Action::Info => info::info(&input::read()?),
        Action::None => Err(Error::invalid(format!("nothing to do\n\n{USAGE}"))),
    }
}
