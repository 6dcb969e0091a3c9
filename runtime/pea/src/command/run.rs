//! `pea run`

use std::thread;

use clap::Args;

use super::Global;
use super::create::Creation;
use super::foreground::Foreground;
use super::notify::Notify;
use super::start;
use super::terminal::Console;
use crate::error::{Error, ErrorKind};
use crate::{CreateOptions, Runtime};

/// Create and start a container, wait for it, delete it
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    creation: Creation,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    keep: bool,
    /// The container's id
    id: String,
}

pub fn run(runtime: &Runtime, global: &Global, arguments: &Arguments) -> Result<u8, Error> {
    match arguments.detach {
        true => detached(runtime, global, arguments).map(|()| 0),
        false => foreground(runtime, global, arguments),
    }
}

fn detached(runtime: &Runtime, global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let Arguments { creation, id, .. } = arguments;
    let (source, terminal) = creation.read()?;
    if creation.console_socket.is_none() && terminal {
        let text = "cannot allocate tty if pea will detach without setting console socket";
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let created = runtime.create_here(id, &creation.bundle, source, creation.options(global))?;
    // One that does not start is of no use to anybody who asked for `run`.
    start::start(runtime, id, || created.start()).inspect_err(|_| drop(runtime.delete(id, true)))
}

fn foreground(runtime: &Runtime, global: &Global, arguments: &Arguments) -> Result<u8, Error> {
    let Arguments { creation, id, .. } = arguments;
    // Given a console socket, the terminal is somebody else's to serve.
    let (source, terminal) = creation.read()?;
    let console = match creation.console_socket.is_none() && terminal {
        true => Some(Console::listen()?),
        false => None,
    };
    let own = console.as_ref().map(|console| console.path().to_owned());
    let options = CreateOptions { console_socket: own.or(creation.console_socket.clone()), ..creation.options(global) };
    let mut foreground = Foreground::begin()?;
    let created = runtime.create_here(id, &creation.bundle, source, options)?;
    if creation.no_subreaper {
        Foreground::adopt_no_more()?;
    }
    let ended = foreground.attach(created.pid, console).and_then(|()| {
        let notify = Notify::listen(runtime, id)?;
        created.start()?;
        if let Some(notify) = notify {
            // Beside the waiting; it ends with us.
            thread::spawn(move || notify.forward());
        }
        foreground.wait()
    });
    drop(foreground);
    let deleted = match arguments.keep && ended.is_ok() {
        true => Ok(()),
        false => runtime.delete(id, true),
    };
    let code = ended?;
    deleted.map(|()| code)
}
