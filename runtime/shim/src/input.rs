//! Standard input of `start` and `-info`: what the caller has to say beyond its flags.

use std::fs::File;
use std::io::{IsTerminal, Read};

use crate::error::Error;
use crate::sys;

/// The most there may be: options are a few hundred bytes, and a daemon that writes for ever must not fill the memory.
const LONGEST: u64 = 4 << 20;

/// All of it; a terminal is a person, who has nothing to say here.
pub fn read() -> Result<Vec<u8>, Error> {
    let failed = |source| Error::io("read standard input", source);
    let mut input = Vec::new();
    let stdin = sys::stdin();
    if !stdin.is_terminal() {
        let stdin = File::from(stdin.try_clone_to_owned().map_err(failed)?);
        stdin.take(LONGEST + 1).read_to_end(&mut input).map_err(failed)?;
    }
    if input.len() as u64 > LONGEST {
        return Err(Error::invalid(format!("there are more than {LONGEST} bytes on standard input")));
    }
    Ok(input)
}
