//! The container's init, from its birth to the user's program.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getpid, setsid};

use super::Build;
use super::idmap;
use super::netdevice;
use super::sync::{Channel, Message};
use crate::cgroup::own_way;
use crate::error::{Error, ErrorKind};
use crate::hooks;
use crate::process::{Launch, confine, open_console, reopen_null};
use crate::rootfs::{Context, Root, Sources, make_directory};
use crate::state::{State, Status};
use crate::sys;
use crate::sys::process;

/// The init process and what it still needs. It was cloned with a copy of all of the helper's memory.
pub struct Init<'a> {
    pub build: Build<'a>,
    pub channel: Channel,
    /// The machine's /proc; the container's own could be anything.
    pub proc: File,
    /// Into cgroups that it enters by itself.
    pub ways: Vec<File>,
    pub sources: Option<Sources>,
    pub root: Option<Root>,
    /// Whether the helper has put us into our cgroup.
    pub placed: bool,
}

type Step = fn(&mut Init<'_>) -> Result<(), Error>;

/// The surroundings, in this order (runtime.md, "Lifecycle", 2 to 6). [`confine`] goes on where this ends.
const STEPS: [(&str, Step); 19] = [
    ("tie the init to its creator", tie),
    ("enter the cgroups", enter_cgroups),
    ("wait for the ids of the user namespace", wait_for_ids),
    ("join the namespaces", join_namespaces),
    ("make the time namespace", make_time_namespace),
    ("become root of the container", become_root),
    ("begin a session", begin_session),
    ("set up the network", set_up_network),
    ("enter the root file system", enter_root),
    ("mount", mount),
    ("make the cgroup namespace", make_cgroup_namespace),
    ("run hooks", run_outside_hooks),
    ("run hooks", run_create_container_hooks),
    ("change the root", change_root),
    ("set up the standard streams", set_up_stdio),
    ("set the host's name", set_names),
    ("make the working directory", make_working_directory),
    ("finish the root file system", finish_root),
    ("set the umask", set_umask),
];

/// Does all of it. Ends as the user's program, or not at all.
pub fn run(mut init: Init<'_>) -> ! {
    let bug = |_| Err(Error::internal("a bug: the init panicked"));
    let launch = match catch_unwind(AssertUnwindSafe(|| init.set_up())).unwrap_or_else(bug) {
        Ok(launch) => launch,
        Err(error) => {
            // With nobody left to hear it, it ends all the same.
            let _ = init.channel.send(&Message::Failed(error));
            process::exit_now(1);
        }
    };
    let Init { build, channel, .. } = init;
    let Build { gate, plan, state, .. } = build;
    let waited = channel.send(&Message::Ready).is_ok() && channel.receive() == Ok(Some(Message::Recorded));
    if !waited {
        // The helper was killed before the container was on record.
        process::exit_now(1);
    }
    drop(channel);
    let Ok(starter) = gate.wait() else { process::exit_now(1) };
    let state = State { status: Status::Created, pid: getpid().as_raw(), ..state };
    let hooked = hooks::run("startContainer", &plan.hooks.start_container, &state, Some(&plan.process));
    let error = match hooked {
        Ok(()) => launch.run(),
        Err(error) => error,
    };
    starter.tell(&error);
    process::exit_now(match error.kind() {
        ErrorKind::CommandNotFound => 127,
        ErrorKind::CommandNotExecutable => 126,
        _ => 1,
    })
}

impl Init<'_> {
    fn set_up(&mut self) -> Result<Launch, Error> {
        process::default_signals().map_err(|error| Error::io("reset the signals", error))?;
        for (name, step) in STEPS {
            step(self).map_err(|error| Error::new(error.kind(), format!("{name}: {error}")))?;
        }
        let mut launch = confine(&self.build.plan.process, self.proc.as_fd())?;
        self.close_inherited(&launch)?;
        // The line to the helper takes its place: its end is ours until the container is on record.
        prctl::set_pdeathsig(None).map_err(|error| Error::io("untie the init from its creator", error))?;
        if self.build.plan.hooks.start_container.is_empty() {
            launch.install_early()?;
        }
        Ok(launch)
    }

    /// Closes everything that is not for the program, nor for starting it: the container's lock, the machine's /proc.
    fn close_inherited(&self, launch: &Launch) -> Result<(), Error> {
        let keep = [self.channel.as_fd().as_raw_fd(), self.build.gate.number()];
        let keep: Vec<RawFd> = keep.into_iter().chain(launch.descriptors()).collect();
        sys::close_all_from(3 + self.build.preserve_fds, &keep).map_err(|error| Error::io("close descriptors", error))
    }

    fn wait_for(&self, expected: &Message) -> Result<(), Error> {
        match self.channel.receive()? {
            Some(message) if message == *expected => Ok(()),
            Some(_) => Err(Error::internal("a bug: the helper says something else")),
            None => process::exit_now(1),
        }
    }

    /// Waits to be in our cgroup, if we are not there yet, and makes the cgroup namespace, whose root it is.
    fn enter_cgroup(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.placed, true) {
            return Ok(());
        }
        self.wait_for(&Message::Placed)?;
        self.build.plan.namespaces.make_cgroup()
    }

    fn root(&mut self) -> Result<&mut Root, Error> {
        self.root.as_mut().ok_or_else(|| Error::internal("a bug: there is no root yet"))
    }
}

/// Dies with the helper, which nobody else could tell what becomes of us.
fn tie(init: &mut Init<'_>) -> Result<(), Error> {
    let _ = prctl::set_name(c"pea:init");
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| Error::io("prctl", error))?;
    let mut line = [PollFd::new(init.channel.as_fd(), PollFlags::empty())];
    // It may have died before this.
    if poll(&mut line, PollTimeout::ZERO) != Ok(0) {
        process::exit_now(1);
    }
    Ok(())
}

/// Where that fails the helper finds us missing, tries it from outside, and says what was wrong.
fn enter_cgroups(init: &mut Init<'_>) -> Result<(), Error> {
    let ways = std::mem::take(&mut init.ways);
    if ways.is_empty() {
        return Ok(());
    }
    for way in &ways {
        let _ = own_way::take(way);
    }
    if init.channel.send(&Message::Entered).is_err() {
        process::exit_now(1);
    }
    Ok(())
}

/// Not to be traced or looked into by whoever shares a namespace; the ids were mapped through our files in /proc.
fn wait_for_ids(init: &mut Init<'_>) -> Result<(), Error> {
    if init.build.plan.id_maps.is_some() {
        init.wait_for(&Message::Mapped)?;
    }
    Ok(())
}

fn join_namespaces(init: &mut Init<'_>) -> Result<(), Error> {
    let namespaces = &init.build.plan.namespaces;
    if namespaces.need_joiner() { Ok(()) } else { namespaces.join() }
}

/// Before we change ids, for its file is then no longer ours.
fn make_time_namespace(init: &mut Init<'_>) -> Result<(), Error> {
    init.build.plan.namespaces.make_time()
}

fn become_root(init: &mut Init<'_>) -> Result<(), Error> {
    prctl::set_dumpable(false).map_err(|error| Error::io("become undumpable", error))?;
    if !init.build.plan.namespaces.user() {
        return Ok(());
    }
    idmap::become_root()?;
    // The kernel forgets it when ids change.
    tie(init)
}

fn begin_session(_: &mut Init<'_>) -> Result<(), Error> {
    setsid().map(drop).map_err(|error| Error::io("setsid", error))
}

/// Nothing else is in a new network namespace.
fn set_up_network(init: &mut Init<'_>) -> Result<(), Error> {
    match init.build.plan.namespaces.makes(CloneFlags::CLONE_NEWNET) {
        true => netdevice::set_up_loopback(),
        false => Ok(()),
    }
}

fn enter_root(init: &mut Init<'_>) -> Result<(), Error> {
    let plan = init.build.plan;
    let context = Context {
        no_pivot: init.build.no_pivot,
        user_namespace: plan.namespaces.user(),
        cgroup_namespace: plan.namespaces.cgroup(),
        cgroup: plan.cgroup.path().to_owned(),
    };
    let sources = init.sources.take().ok_or_else(|| Error::internal("a bug: the mounts' sources are gone"))?;
    init.root = Some(Root::enter(plan.rootfs.clone(), sources, context)?);
    Ok(())
}

/// The first mount of a cgroup file system needs the cgroup; what comes before it need not wait.
fn mount(init: &mut Init<'_>) -> Result<(), Error> {
    let mut root = init.root.take().ok_or_else(|| Error::internal("a bug: there is no root yet"))?;
    root.mount(&mut || init.enter_cgroup())?;
    init.root = Some(root);
    Ok(())
}

fn make_cgroup_namespace(init: &mut Init<'_>) -> Result<(), Error> {
    init.enter_cgroup()
}

/// Run by the helper, in the runtime's namespaces. Nobody else's program runs before all limits are set.
fn run_outside_hooks(init: &mut Init<'_>) -> Result<(), Error> {
    if !init.build.plan.hooks.any() {
        return Ok(());
    }
    if init.channel.send(&Message::HooksDue).is_err() {
        process::exit_now(1);
    }
    init.wait_for(&Message::HooksRan)
}

fn run_create_container_hooks(init: &mut Init<'_>) -> Result<(), Error> {
    let state = State { pid: getpid().as_raw(), ..init.build.state.clone() };
    let plan = init.build.plan;
    hooks::run("createContainer", &plan.hooks.create_container, &state, Some(&plan.process))
}

fn change_root(init: &mut Init<'_>) -> Result<(), Error> {
    init.root()?.pivot()
}

/// The terminal is of the container's own devpts, and becomes its /dev/console too.
fn set_up_stdio(init: &mut Init<'_>) -> Result<(), Error> {
    let Some(socket) = init.build.console.take() else {
        for (number, fd) in init.build.stdio.iter().enumerate() {
            let Some(fd) = fd else { continue };
            let fd: BorrowedFd<'_> = fd.as_fd();
            sys::set_stdio(fd, number as RawFd).map_err(|error| Error::io("set a standard stream", error))?;
        }
        return reopen_null();
    };
    let slave = open_console(socket.as_fd(), init.build.plan.process.console_size)?;
    init.root()?.bind_console(slave.as_fd())
}

fn set_names(init: &mut Init<'_>) -> Result<(), Error> {
    let plan = init.build.plan;
    let failure = |what: &str, name: &str, error| Error::io(format!("{what} {name:?}"), error);
    if let Some(name) = &plan.hostname {
        sys::uts::set_hostname(name).map_err(|error| failure("hostname", name, error))?;
    }
    if let Some(name) = &plan.domainname {
        sys::uts::set_domainname(name).map_err(|error| failure("domainname", name, error))?;
    }
    Ok(())
}

/// As long as the root may be written to. Whether it can be entered shows later.
fn make_working_directory(init: &mut Init<'_>) -> Result<(), Error> {
    let path = &init.build.plan.process.cwd;
    if path != Path::new("/") {
        let _ = make_directory(path);
    }
    Ok(())
}

fn finish_root(init: &mut Init<'_>) -> Result<(), Error> {
    match init.root.take() {
        Some(root) => root.finish(),
        None => Err(Error::internal("a bug: there is no root yet")),
    }
}

fn set_umask(_: &mut Init<'_>) -> Result<(), Error> {
    umask(Mode::from_bits_truncate(0o022));
    Ok(())
}
