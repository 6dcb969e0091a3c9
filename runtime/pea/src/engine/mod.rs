//! The engine that builds a container.
//!
//! ```text
//! caller ── helper               plans, opens, clones; maps ids, places, runs hooks; writes the record, and ends
//!             ├─ (joiner)        only where the init could not join by itself: joins, clones the init, ends
//!             └─ init            born into its namespaces; sets them up step by step (init.rs); waits at the gate
//! ```
//!
//! Until the container is on record the init dies with the helper: first by the kernel's signal, then by the end of
//! the line between them (sync.rs).

mod gate;
mod idmap;
mod init;
mod namespace;
mod netdevice;
mod netlink;
mod plan;
mod sync;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::prctl;
use nix::unistd::geteuid;

use self::init::Init;
use self::sync::{Channel, Message};
use crate::error::Error;
use crate::socket;
use crate::state::State;
use crate::sys::clone::{Clone as Cloned, clone3};
use crate::sys::process::{self, Fork};

pub use self::gate::{Gate, SOCKET as GATE, is_closed as is_gate_closed, open as open_gate};
pub use self::plan::{Hooks, Plan};

/// A plan and what its init inherits.
#[derive(Debug)]
pub struct Build<'a> {
    pub plan: &'a Plan,
    /// As hooks get it, but for the pid: while the container is created.
    pub state: State,
    /// What the container's 0, 1 and 2 shall be; the helper's own when absent.
    pub stdio: [Option<OwnedFd>; 3],
    /// Who gets the terminal's master.
    pub console: Option<UnixStream>,
    pub gate: Gate,
    /// How many descriptors after 2 the container gets.
    pub preserve_fds: u32,
    pub no_pivot: bool,
}

/// A container that stands and waits to be started, but ends when this value is dropped before [`Built::release`].
#[derive(Debug)]
pub struct Built {
    /// The init, a child of this process.
    pub pid: i32,
    /// Its handle.
    pub pidfd: OwnedFd,
    line: Channel,
}

impl Built {
    /// The container is on record: it lives without the helper from here on.
    pub fn release(self) -> Result<(), Error> {
        self.line.send(&Message::Recorded).map_err(|_| died(self.pid))
    }
}

/// Builds the container. After a failure the init may still be on its way to its end; the caller waits for that.
pub fn build(build: Build<'_>) -> Result<Built, Error> {
    let proc = socket::open_dir(Path::new("/proc")).map_err(|error| Error::io("open /proc", error))?;
    let sources = build.plan.rootfs.open()?;
    let cgroup = build.plan.cgroup.prepare()?;
    let ways = build.plan.cgroup.ways();
    let walks = !ways.is_empty();
    let (ours, theirs) = Channel::pair()?;
    if geteuid().is_root() || build.plan.namespaces.need_joiner() {
        // Whoever shares a namespace with the init must not be able to look into it, from the first moment on. A new
        // user namespace of somebody without privilege is mapped through files of /proc that would not be his then;
        // its init sees to it a little later.
        prctl::set_dumpable(false).map_err(|error| Error::io("become undumpable", error))?;
    }
    match bear(build.plan, cgroup.as_ref().map(AsFd::as_fd), &ours, &theirs)? {
        Born::Init => {
            drop(ours);
            drop(cgroup);
            init::run(Init { build, channel: theirs, proc, ways, sources: Some(sources), root: None, placed: false })
        }
        Born::Helper(init) => {
            drop((theirs, sources, ways));
            match attend(&build, &init, walks, &ours) {
                Ok(()) => Ok(Built { pid: init.pid, pidfd: init.pidfd, line: ours }),
                // What the init says of its end is the cause of what failed here.
                Err(error) => Err(match ours.said() {
                    Some(Message::Failed(cause)) => cause,
                    _ => error,
                }),
            }
        }
    }
}

/// Which process this is after the clone.
enum Born {
    Init,
    Helper(Newborn),
}

/// The init, as the helper knows it.
struct Newborn {
    pid: i32,
    pidfd: OwnedFd,
    /// Whether it was cloned into its cgroup.
    born: bool,
    /// Whether it has entered the others already.
    entered: bool,
}

/// Clones the init: by a process in between where a user or pid namespace is joined, which only its children enter.
fn bear(plan: &Plan, cgroup: Option<BorrowedFd<'_>>, ours: &Channel, theirs: &Channel) -> Result<Born, Error> {
    if !plan.namespaces.need_joiner() {
        return Ok(match clone_init(plan, cgroup, false)? {
            (Cloned::Child, _) => Born::Init,
            (Cloned::Parent(pid, pidfd), born) => Born::Helper(Newborn { pid, pidfd, born, entered: false }),
        });
    }
    match process::fork().map_err(|error| Error::io("fork", error))? {
        Fork::Child => match plan.namespaces.join().and_then(|()| clone_init(plan, cgroup, true)) {
            Ok((Cloned::Child, _)) => Ok(Born::Init),
            Ok((Cloned::Parent(pid, _), _)) => {
                let _ = theirs.send(&Message::Cloned(pid));
                process::exit_now(0)
            }
            Err(error) => {
                let _ = theirs.send(&Message::Failed(error));
                process::exit_now(1)
            }
        },
        Fork::Parent(joiner) => {
            let _ = process::wait(joiner, true);
            adopt(ours)
        }
    }
}

/// Takes over the init that the process in between has made.
fn adopt(ours: &Channel) -> Result<Born, Error> {
    let mut said = ours.said();
    // The init may have been quicker.
    let entered = said == Some(Message::Entered);
    if entered {
        said = ours.said();
    }
    match said {
        // Our child, and not reaped: the number is still its own.
        Some(Message::Cloned(pid)) => process::pidfd_open(pid)
            .map(|pidfd| Born::Helper(Newborn { pid, pidfd, born: false, entered }))
            .map_err(|error| Error::io("open the init's pidfd", error)),
        Some(Message::Failed(error)) => Err(error),
        _ => Err(Error::internal("the process that joins the container's namespaces ended without a word")),
    }
}

/// Clones the init, and says whether it is in that cgroup.
fn clone_init(plan: &Plan, cgroup: Option<BorrowedFd<'_>>, sibling: bool) -> Result<(Cloned, bool), Error> {
    let flags = plan.namespaces.for_clone();
    let namespaces = flags.bits() as u32 as u64;
    // Where it may not be born in that cgroup it is placed there as soon as it is there.
    let elsewhere = |error: &io::Error| {
        let errors = [libc::EACCES, libc::EBUSY, libc::EOPNOTSUPP, libc::ENOSYS, libc::EPERM];
        cgroup.is_some() && error.raw_os_error().is_some_and(|error| errors.contains(&error))
    };
    let cloned = match clone3(namespaces, cgroup, sibling) {
        Err(error) if elsewhere(&error) => clone3(namespaces, None, sibling).map(|cloned| (cloned, false)),
        cloned => cloned.map(|cloned| (cloned, cgroup.is_some())),
    };
    cloned.map_err(|error| Error::io(format!("clone the container's init ({flags:?})"), error))
}

/// The helper's part, until the init is ready. `walks`: whether the init enters cgroups by itself.
fn attend(build: &Build<'_>, init: &Newborn, walks: bool, line: &Channel) -> Result<(), Error> {
    let plan = build.plan;
    let pid = init.pid;
    // Whether the init still hears it shows in what it said last.
    let tell = |message: &Message| drop(line.send(message));
    if let Some(maps) = &plan.id_maps {
        maps.apply(pid)?;
        tell(&Message::Mapped);
    }
    if walks && !init.entered {
        match line.receive()? {
            Some(Message::Entered) => {}
            Some(Message::Failed(error)) => return Err(error),
            Some(_) => return Err(Error::internal("a bug: the init says something else")),
            None => return Err(died(pid)),
        }
    }
    plan.cgroup.place(pid, init.born)?;
    if !plan.net_devices.is_empty() {
        netdevice::give(&plan.net_devices, plan.namespaces.network_of(pid)?.as_fd())?;
    }
    tell(&Message::Placed);
    let mut device_program = plan.cgroup.load_device_program();
    loop {
        match line.receive()? {
            Some(Message::HooksDue) => {
                plan.cgroup.enforce(device_program.take())?;
                let state = State { pid, ..build.state.clone() };
                plan.hooks.run_of_runtime(&state)?;
                tell(&Message::HooksRan);
            }
            Some(Message::Ready) if plan.hooks.any() => return Ok(()),
            Some(Message::Ready) => return plan.cgroup.enforce(device_program),
            Some(Message::Failed(error)) => return Err(error),
            Some(_) => return Err(Error::internal("a bug: the init says what only the helper says")),
            None => return Err(died(pid)),
        }
    }
}

/// Reaps the init to say how it ended.
fn died(pid: i32) -> Error {
    let end = match process::wait(pid, true) {
        Ok(Some(exit)) if exit.code > 128 => format!("was killed by signal {}", exit.code - 128),
        Ok(Some(exit)) => format!("ended with status {}", exit.code),
        _ => "ended".to_owned(),
    };
    let advice = if end.ends_with("signal 9") { " (is its memory limit too low?)" } else { "" };
    Error::internal(format!("the container's init {end} while the container was created{advice}"))
}
