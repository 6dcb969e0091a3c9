//! A pod with a user namespace of its own.
//!
//! The shim cannot live in that one: it would lose its rights on the node. So the pod's init is made whatever the PID
//! namespace, and holds the pod's user, IPC, network and UTS namespaces. They are made inside the user namespace, for the
//! pod's root may set up only what belongs to it.
//!
//! ```text
//! shim ── builder   enters all of them, becomes the pod's root, ends
//!      └─ init      forked by the builder as the shim's child, in the pod's PID namespace when that is shared
//! ```
//!
//! The init's memory is none of the pod's business, although it runs as the pod's root: it is not dumpable, so whoever
//! wants to trace it needs rights on the node (ptrace(2), "access mode checking").

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{fstat, stat};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use super::init;
use super::namespaces::Plan;
use super::options::{IdRange, Users};
use crate::error::Error;
use crate::sys::{self, Fork};

/// Where a process reads and its parent writes how its ids are mapped (user_namespaces(7)).
const MAPS: [&str; 2] = ["uid_map", "gid_map"];

/// What the builder does.
struct Building<'a> {
    /// The user namespace to enter: that of the network namespace which was given. Born in the right one without.
    join: Option<OwnedFd>,
    plan: Plan,
    users: &'a Users,
    /// The flags of the init's birth.
    flags: i32,
}

/// Makes the pod's namespaces and the init that holds them. Returns its pid; it is the shim's child.
///
/// # Errors
/// Among others when the network namespace belongs to a user namespace that maps ids in another way: nobody in the pod
/// could set its network up.
pub(super) fn spawn(plan: Plan, users: &Users, own_pids: bool) -> Result<i32, Error> {
    let failed = |source: io::Error| Error::io("make the pod's user namespace", source);
    let flags = libc::CLONE_PARENT | if own_pids { libc::CLONE_NEWPID } else { 0 };
    let join = plan.owner_of_network()?;
    join.as_ref().map_or(Ok(()), expect_another)?;
    let building = Building { join, plan, users, flags };
    let birth = if building.join.is_some() { 0 } else { libc::CLONE_NEWUSER };
    let (line, inits_end) = UnixStream::pair().map_err(failed)?;
    let (mut news, builders_end) = UnixStream::pair().map_err(failed)?;
    let builder = match sys::fork(birth).map_err(failed)? {
        Fork::Child => {
            drop((line, news));
            be_the_builder(building, builders_end, inits_end)
        }
        Fork::Parent(pid) => pid,
    };
    drop((inits_end, builders_end));
    let mapped = if building.join.is_some() { Ok(()) } else { map(builder, users) };
    let pid = end(builder, mapped.and_then(|()| hear(&mut news)))?;
    init::await_up(line, pid).map_err(|source| Error::io("start the init that holds the pod's namespaces", source))?;
    Ok(pid)
}

/// Whether that is another user namespace than the shim's.
fn expect_another(owner: &OwnedFd) -> Result<(), Error> {
    let failed = |errno: nix::Error| Error::io("look at the user namespace of the pod's network", errno);
    let (theirs, ours) = (fstat(owner).map_err(failed)?, stat("/proc/self/ns/user").map_err(failed)?);
    if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
        return Ok(());
    }
    Err(Error::invalid(
        "the network namespace belongs to the node's user namespace: one for a pod with users is made in the pod's",
    ))
}

fn map(builder: i32, users: &Users) -> Result<(), Error> {
    let maps = MAPS.iter().zip([&users.uids, &users.gids]);
    maps.into_iter().try_for_each(|(name, ranges)| {
        let (path, lines) = (format!("/proc/{builder}/{name}"), lines(ranges));
        fs::write(&path, &lines).map_err(|source| Error::io(format!("write {lines:?} to {path}"), source))
    })
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.size)).collect()
}

/// Lets the builder go on, and hears what has come of it: the init's pid, or a report of the failure after a 0. `None` when it
/// has ended without a word.
fn hear(news: &mut UnixStream) -> Result<Option<i32>, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock => silent(&format!("did not answer within {}s", init::SETUP.as_secs())),
        _ => Error::io("hear of the pod's user namespace", source),
    };
    news.set_read_timeout(Some(init::SETUP)).map_err(failed)?;
    // One that has ended already hears nothing, and that shows in what it says.
    let _ = news.write_all(&[0]);
    let mut answer = Vec::new();
    match news.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(failed(error)),
        _ => {}
    }
    let Some((pid, report)) = answer.split_first_chunk() else { return Ok(None) };
    match (i32::from_le_bytes(*pid), Error::from_report(report)) {
        (0, Some(Err(error))) => Err(error),
        (0, _) => Ok(None),
        (pid, _) => Ok(Some(pid)),
    }
}

/// Ends the builder, which has ended by itself or is not to go on, and tells what has come of it.
fn end(builder: i32, heard: Result<Option<i32>, Error>) -> Result<i32, Error> {
    let builder = Pid::from_raw(builder);
    // To one that is on its way out already this does nothing: its status stays its own.
    let _ = kill(builder, Signal::SIGKILL);
    let ended = waitpid(builder, None).map_err(|errno| Error::io("wait for the end of the pod's builder", errno))?;
    heard?.ok_or_else(|| match ended {
        WaitStatus::Exited(_, status) => silent(&format!("ended with status {status}")),
        WaitStatus::Signaled(_, signal, _) => silent(&format!("was killed by {signal}")),
        _ => silent("ended"),
    })
}

/// For a builder that could not say by itself what was wrong.
fn silent(what: &str) -> Error {
    Error::internal(format!("make the pod's user namespace: the process that makes it {what}"))
}

fn be_the_builder(building: Building<'_>, mut shim: UnixStream, line: UnixStream) -> ! {
    let flags = building.flags;
    let forked = build(building, &mut shim)
        .and_then(|()| sys::fork(flags).map_err(|source| Error::io("start the init of a pod with users", source)));
    let answer = match forked {
        Ok(Fork::Child) => init::be(line, || Ok(())),
        Ok(Fork::Parent(pid)) => pid.to_le_bytes().to_vec(),
        Err(error) => [vec![0; 4], Error::report(&Err(error))].concat(),
    };
    let _ = shim.write_all(&answer);
    sys::exit_now(0)
}

/// Up to the moment where nothing is left to do but to be forked.
fn build(building: Building<'_>, shim: &mut UnixStream) -> Result<(), Error> {
    let failed = |source: io::Error| Error::io("enter the pod's user namespace", source);
    // The handlers are the event loop's and write to its descriptors.
    SigSet::all().thread_block().map_err(|errno| failed(errno.into()))?;
    shim.read_exact(&mut [0]).map_err(failed)?;
    if let Some(join) = building.join {
        setns(join, CloneFlags::CLONE_NEWUSER).map_err(|errno| failed(errno.into()))?;
        expect_map(building.users)?;
    }
    // Parameters with ids (net.ipv4.ping_group_range) are set in here: they are the pod's. Those of IPC are the pod's root's
    // to write from Linux 6.11 on; before, the node's.
    let parameters = building.plan.enter()?.set_permitted()?;
    become_root().map_err(|errno| failed(errno.into()))?;
    parameters.set()
}

/// Whether the user namespace this process has joined is the one that was asked for.
fn expect_map(users: &Users) -> Result<(), Error> {
    for (name, wanted) in MAPS.iter().zip([&users.uids, &users.gids]) {
        let path = format!("/proc/self/{name}");
        let found = fs::read_to_string(&path).map_err(|source| Error::io(format!("read {path}"), source))?;
        let numbers = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if numbers(&found) != numbers(&lines(wanted)) {
            let found = numbers(&found).join(" ");
            return Err(Error::invalid(format!(
                "the network namespace belongs to a user namespace whose {name} is \"{found}\", which is not the pod's"
            )));
        }
    }
    Ok(())
}

fn become_root() -> nix::Result<()> {
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    // As after any change of users, unless fs.suid_dumpable says otherwise.
    set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a builder that says this, and then dies or ends with status 7. (It is forked from a program with
    /// threads, and must not allocate.)
    fn told(says: &[u8], dies: bool) -> String {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let builder = match sys::fork(0).unwrap() {
            Fork::Child => {
                let _ = theirs.write_all(says);
                if dies {
                    let _ = nix::sys::signal::raise(Signal::SIGKILL);
                }
                sys::exit_now(7)
            }
            Fork::Parent(pid) => pid,
        };
        drop(theirs);
        end(builder, hear(&mut ours)).map_or_else(|error| error.to_string(), |pid| pid.to_string())
    }

    #[test]
    fn a_builder_that_ends_without_a_word_is_told_by_how_it_ended() {
        let ended = "make the pod's user namespace: the process that makes it ended with status 7";
        assert_eq!(told(&[], false), ended);
        assert_eq!(told(&[0; 4], false), ended, "a failure without a report");
        assert!(told(&[], true).ends_with("the process that makes it was killed by SIGKILL"));
    }

    #[test]
    fn a_builder_that_says_something_is_believed() {
        assert_eq!(told(&70_000_i32.to_le_bytes(), false), "70000");
        let report = Error::report(&Err(Error::invalid("no such users")));
        assert_eq!(told(&[vec![0; 4], report].concat(), true), "no such users");
    }
}
