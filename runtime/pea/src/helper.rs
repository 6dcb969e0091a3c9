//! The helper child: a fork of the caller in which `create` and `exec` are done.
//!
//! Setting up a container changes the process that does it: its working directory, its umask, its cgroup, its
//! keyring, its dumpable flag. A forked helper takes all that; the caller only ever sees the outcome.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::pipe2;

use crate::error::{Error, ErrorKind};
use crate::pending::{Pending, children_of};
use crate::sys;
use crate::sys::process::{self, Fork};

/// A report must fit into the pipe, for nobody reads until the helper has ended.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// What the helper has of its caller's, besides the descriptors 0, 1 and 2.
#[derive(Default)]
pub struct Kept {
    /// What the container's 0, 1 and 2 shall be; the helper's own when absent.
    pub stdio: [Option<OwnedFd>; 3],
    /// How many descriptors after 2 are kept as they are.
    pub preserve: u32,
    /// The runtime namespaces where its caller is in others. It enters them, and keeps no descriptor of them.
    pub namespaces: Vec<OwnedFd>,
}

/// Forks and does `work` in the child. The result is what `work` returns: the pid the caller asked for.
pub fn spawn(mut kept: Kept, work: impl FnOnce(Kept) -> Result<i32, Error>) -> Result<Pending, Error> {
    single_threaded()?;
    kept.preserve = worth_keeping(kept.preserve)?;
    let (read, mut write) =
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|error| Error::io("make a pipe", error))?;
    let caller = std::process::id() as i32;
    let mask = process::block_signals().map_err(|error| Error::io("block signals", error))?;
    let fork = process::fork();
    if let Ok(Fork::Child) = fork {
        let outcome = die_with(caller).and_then(|()| settle(&mut kept, &mut write)).and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| work(kept)))
                .unwrap_or_else(|_| Err(Error::internal("a bug: the helper process panicked")))
        });
        let _ = File::from(write).write_all(&report(outcome));
        process::exit_now(0);
    }
    let restored = process::restore_signals(&mask);
    let Fork::Parent(pid) = fork.map_err(|error| Error::io("fork the helper process", error))? else {
        process::exit_now(0);
    };
    let pidfd = process::pidfd_open(pid).map_err(|error| Error::io("open the helper's pidfd", error))?;
    let pending = Pending::new(pid, pidfd, File::from(read));
    restored.map_err(|error| Error::io("restore the signal mask", error))?;
    Ok(pending)
}

/// Whether this process can do a helper's work itself: no child of its own could be taken for one that it makes, and no
/// descriptor is in the way of those the container gets.
pub fn can_work_here(kept: &Kept) -> bool {
    let plain = kept.preserve == 0 && kept.stdio.iter().all(Option::is_none) && kept.namespaces.is_empty();
    plain && single_threaded().is_ok() && !process::has_children()
}

/// Does a helper's work in this process, which saves a fork and the copying of memory. Only where it [can](can_work_here)
/// be done here, and for a caller who does not mind to keep some of what the work changes.
pub fn work_here<T>(work: impl FnOnce(Kept) -> Result<T, Error>) -> Result<T, Error> {
    // As in a helper, no hook gets what was handed down to us; the init closes it.
    sys::close_on_exec_from(3).map_err(|error| Error::io("close descriptors", error))?;
    work(Kept::default())
}

/// A child of a threaded program may find any lock taken for ever; such a caller is refused.
fn single_threaded() -> Result<(), Error> {
    // Nothing to do for who has one thread, and refused to others (unshare(2)).
    if unshare(CloneFlags::CLONE_THREAD).is_ok() {
        return Ok(());
    }
    let tasks = fs::read_dir("/proc/self/task").map_err(|error| Error::io("read /proc/self/task", error))?;
    match tasks.count() {
        1 => Ok(()),
        count => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "only a single-threaded process may create a container or execute in one; this one has {count} threads"
            ),
        )),
    }
}

/// How many of the `wanted` numbers after 2 there is a reason to keep: up to the last that is open and stays so in a
/// program. What is missing in between is no error; our own descriptors, which no program gets, do not count.
fn worth_keeping(wanted: u32) -> Result<u32, Error> {
    if wanted == 0 {
        return Ok(0);
    }
    let numbers = fs::read_dir("/proc/self/fd").map_err(|error| Error::io("read /proc/self/fd", error))?;
    let numbers = numbers.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let wanted = numbers.filter(|number| number.checked_sub(3).is_some_and(|index| index < wanted));
    Ok(wanted.filter(|number| sys::is_inheritable(*number as RawFd)).max().map_or(0, |last| last - 2))
}

/// Has the helper killed when its caller dies: nobody would want what it makes, and who deletes the container next must
/// not see it come up again.
fn die_with(caller: i32) -> Result<(), Error> {
    let set = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    set.map_err(|error| Error::io("tie the helper to its caller", error))?;
    if nix::unistd::getppid().as_raw() == caller {
        return Ok(());
    }
    // Died before it was tied.
    process::exit_now(1)
}

/// Makes the child a process of its own: default signals, and no descriptor but those agreed on.
///
/// A container's init keeps what the helper has until it executes the user's program, so a copy of another
/// container's pipe would keep that pipe open for as long.
fn settle(kept: &mut Kept, report: &mut OwnedFd) -> Result<(), Error> {
    process::default_signals().map_err(|error| Error::io("reset the signals", error))?;
    enter(std::mem::take(&mut kept.namespaces))?;
    let lowest = 3 + kept.preserve as RawFd;
    let null = File::open("/dev/null").map_err(|error| Error::io("open /dev/null", error))?;
    let mut null = OwnedFd::from(null);
    let wanted = kept.stdio.iter_mut().flatten().chain([report, &mut null]);
    let mut numbers = Vec::new();
    for fd in wanted {
        let copy =
            sys::duplicate_above(fd.as_fd(), lowest).map_err(|error| Error::io("duplicate a descriptor", error))?;
        numbers.push(copy.as_raw_fd());
        // The old number is closed below with all the others.
        std::mem::forget(std::mem::replace(fd, copy));
    }
    occupy(lowest, &null).map_err(|error| Error::io("duplicate a descriptor", error))?;
    sys::close_all_from(lowest as u32, &numbers).map_err(|error| Error::io("close descriptors", error))
}

/// All that is done from here on is done in them: hooks run there, network devices are looked for there, and a container has
/// those that its configuration does not name.
fn enter(namespaces: Vec<OwnedFd>) -> Result<(), Error> {
    let enter = |namespace| setns(namespace, CloneFlags::empty());
    namespaces.into_iter().try_for_each(enter).map_err(|error| Error::io("enter the runtime namespaces", error))
}

/// Puts `null` at every number below `lowest` that was not handed down to us, until the next execve.
///
/// What the caller opened for itself ends here, and what is opened from now on does not get a preserved number: the
/// container's init would hold it, a lock for example, for as long as it waits.
fn occupy(lowest: RawFd, null: &OwnedFd) -> io::Result<()> {
    (3..lowest).filter(|number| !sys::is_inheritable(*number)).try_for_each(|number| sys::place(null.as_fd(), number))
}

fn report(outcome: Result<i32, Error>) -> Vec<u8> {
    let outcome = outcome.map_err(|error| {
        let text: String = error.to_string().chars().take(LONGEST_MESSAGE).collect();
        Error::new(error.kind(), text)
    });
    serde_json::to_vec(&outcome).unwrap_or_default()
}

/// Reads what [`report`] wrote.
pub fn parse_report(text: &[u8]) -> Result<i32, Error> {
    match serde_json::from_slice::<Result<i32, Error>>(text) {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::internal(format!("the helper's report makes no sense: {error}"))),
    }
}

/// Kills and reaps every child of this (helper) process, so that a failure leaves none to the caller.
pub fn end_children() {
    loop {
        for child in children_of(std::process::id() as i32) {
            if let Ok(pidfd) = process::pidfd_open(child) {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
        // Fails once there is no child left.
        if process::wait(-1, true).is_err() {
            return;
        }
    }
}
