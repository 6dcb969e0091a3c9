//! `linux.seccomp`: from the profile to a loaded filter.
//!
//! ```text
//! profile ── compile: newer, enosys (a prologue of ours), libseccomp's program ── cache ── install (seccomp(2))
//!                                                        notify: the descriptor goes to the listener
//! ```
//!
//! The same program serves the container's first process and every one executed in it later.

mod architecture;
mod assemble;
mod cache;
mod compile;
mod enosys;
mod interpret;
mod listener;
mod newer;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use self::interpret::Call;
pub use self::listener::{Listener, Notice};

use crate::error::{Error, ErrorKind};
use crate::sys::seccomp as kernel;
use crate::sys::seccomp::{Instruction, flag};

/// A filter, ready to be installed.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Arc<[Instruction]>,
    flags: u64,
}

impl Filter {
    /// Compiles a profile, or takes what an earlier call left in the directory `cache`.
    ///
    /// Fails when the profile contradicts itself (runtime-spec, "Seccomp") or asks for what this kernel does not have.
    pub fn compile(seccomp: &LinuxSeccomp, cache: Option<&Path>) -> Result<Self, Error> {
        check(seccomp)?;
        let flags = flags(seccomp)?;
        let program = match cache {
            Some(dir) => cache::Cache::new(dir, seccomp).get_or(|| compile::compile(seccomp))?,
            None => compile::compile(seccomp)?,
        };
        Ok(Self { program: program.into(), flags })
    }

    /// Whether somebody outside decides about some system calls: a [`Listener`] has to be given the descriptor.
    pub fn asks(&self) -> bool {
        self.flags & flag::NEW_LISTENER != 0
    }

    /// Whether these calls pass without anybody being asked, as long as their arguments do not matter.
    pub fn lets(&self, names: &[&str]) -> bool {
        let native = ScmpArch::native();
        names.iter().all(|name| {
            let (Ok(call), Some(audit)) = (ScmpSyscall::from_name(name), architecture::audit(native)) else {
                return false;
            };
            let call = Call::new(audit, call.as_raw_syscall() as u32, &[]);
            matches!(interpret::run(&self.program, &call), libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG)
        })
    }

    /// Installs the filter for this process and those it will fork; returns the descriptor for the listener, if any.
    ///
    /// Without CAP_SYS_ADMIN in its user namespace the process must have given up new privileges.
    pub fn load(&self) -> Result<Option<OwnedFd>, Error> {
        kernel::install(&self.program, self.flags)
            .map_err(|error| Error::io("linux.seccomp: install the filter", error))
    }
}

/// The flags of the specification: name, value, and what else must be set for the kernel to take it.
const FLAGS: [(LinuxSeccompFilterFlag, u64, u64); 4] = [
    (LinuxSeccompFilterFlag::SeccompFilterFlagTsync, flag::TSYNC, 0),
    (LinuxSeccompFilterFlag::SeccompFilterFlagLog, flag::LOG, 0),
    (LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow, flag::SPEC_ALLOW, 0),
    (LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv, flag::WAIT_KILLABLE_RECV, flag::NEW_LISTENER),
];

/// The flags of the specification that this kernel knows, by their names.
pub fn supported_flags() -> impl Iterator<Item = String> {
    FLAGS.iter().filter(|(_, value, with)| kernel::has_flags(value | with)).map(|(name, ..)| name.to_string())
}

/// The flags for the kernel. A profile that says nothing of flags does not want speculation slowed down (as with
/// runc); an empty list is honoured.
fn flags(seccomp: &LinuxSeccomp) -> Result<u64, Error> {
    let asks = uses(seccomp, LinuxSeccompAction::ScmpActNotify);
    let mut flags = if asks { flag::NEW_LISTENER } else { 0 };
    let Some(given) = seccomp.flags() else {
        let speculate = kernel::has_flags(flag::SPEC_ALLOW);
        return Ok(flags | if speculate { flag::SPEC_ALLOW } else { 0 });
    };
    for name in given {
        for (_, value, with) in FLAGS.iter().filter(|(each, ..)| each == name) {
            if !kernel::has_flags(value | with) {
                let text = format!("config.json: linux.seccomp.flags: this kernel does not know {name}");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            // What is about waiting for an answer means nothing where nobody is asked, and the kernel refuses it.
            if *with == 0 || asks {
                flags |= value;
            }
        }
    }
    // Both answer by their result; this makes room for the descriptor (seccomp(2), Linux 5.7).
    if flags & flag::TSYNC != 0 && asks {
        flags |= flag::TSYNC_ESRCH;
    }
    Ok(flags)
}

fn uses(seccomp: &LinuxSeccomp, action: LinuxSeccompAction) -> bool {
    seccomp.syscalls().iter().flatten().any(|rule| rule.action() == action)
}

/// Between the filter and the program the process itself sends the descriptor. If that needed an answer from whoever
/// waits for the descriptor, both would wait for ever.
const NEEDED: &str = "sendmsg";

/// Refuses what no kernel or no specification allows.
fn check(seccomp: &LinuxSeccomp) -> Result<(), Error> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    if seccomp.default_action() == notify {
        let text = format!("config.json: linux.seccomp.defaultAction: {notify} can be the action of single rules only");
        return Err(Error::spec(text));
    }
    check_errno("defaultErrnoRet", seccomp.default_action(), seccomp.default_errno_ret())?;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        check_errno(&format!("syscalls[{index}].errnoRet"), rule.action(), rule.errno_ret())?;
        if rule.action() == notify && rule.names().iter().any(|name| name == NEEDED) {
            let text = format!(
                "config.json: linux.seccomp.syscalls[{index}]: {notify} cannot be used for {NEEDED}, \
                 with which the listener is told"
            );
            return Err(Error::spec(text));
        }
        if let Some(argument) = rule.args().iter().flatten().find(|argument| argument.index() > 5) {
            let text = format!(
                "config.json: linux.seccomp.syscalls[{index}].args: index {} is not between 0 and 5",
                argument.index()
            );
            return Err(Error::spec(text));
        }
    }
    let asks = uses(seccomp, notify);
    if asks && seccomp.listener_path().is_none() {
        let text = format!("config.json: linux.seccomp.listenerPath: missing, but {notify} is used");
        return Err(Error::spec(text));
    }
    if seccomp.listener_metadata().is_some() && seccomp.listener_path().is_none() {
        return Err(Error::spec("config.json: linux.seccomp.listenerMetadata: needs a listenerPath"));
    }
    check_actions(seccomp)
}

/// An error number where the action takes none must be refused (runtime-spec, "Seccomp").
fn check_errno(key: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<(), Error> {
    /// The largest the kernel hands on as an error (`MAX_ERRNO`).
    const LARGEST: u32 = 4095;
    let largest = match action {
        LinuxSeccompAction::ScmpActErrno => LARGEST,
        LinuxSeccompAction::ScmpActTrace => u32::from(u16::MAX),
        _ if errno.is_some() => {
            let text = format!("config.json: linux.seccomp.{key}: {action} takes no error number");
            return Err(Error::spec(text));
        }
        _ => return Ok(()),
    };
    match errno {
        Some(errno) if errno > largest => {
            Err(Error::spec(format!("config.json: linux.seccomp.{key}: {errno} is more than {largest}")))
        }
        _ => Ok(()),
    }
}

/// Actions came with different kernels: KILL_PROCESS and LOG with 4.14, NOTIFY with 5.0.
fn check_actions(seccomp: &LinuxSeccomp) -> Result<(), Error> {
    let mut actions = vec![seccomp.default_action()];
    for rule in seccomp.syscalls().iter().flatten() {
        if !actions.contains(&rule.action()) {
            actions.push(rule.action());
        }
    }
    match actions.iter().find(|action| !kernel::has_action(action.as_u32(Some(0)))) {
        Some(action) => {
            let text = format!("config.json: linux.seccomp: this kernel does not know {action}");
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        None => Ok(()),
    }
}
