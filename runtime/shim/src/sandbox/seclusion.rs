//! What the init of a shared PID namespace gives up.
//!
//! Every container of the pod has it before its eyes as process 1. One with `CAP_SYS_PTRACE`, which pods that share their
//! processes are given to look at each other, may trace it and follow `/proc/1/root`: so there must be nothing to find. It
//! has a root of its own that is empty, no mount of the node's in its mount namespace (whoever may enter that finds nothing
//! either), and no rights. A root that is only hidden by chroot(2) would not do, for `/proc/1/root/..` leads out of it.

use std::io;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::unistd::{Gid, Uid, chdir, chroot, pivot_root, setgroups, setresgid, setresuid};

/// Where the empty root is put first. Any directory will do, and the shim could not work without this one.
const PLACE: &str = "/proc";
/// It needs room for nothing but itself.
const EMPTY: &str = "mode=555,nr_inodes=1,size=4096";
/// Who is nobody's user, and is not 65534, which programs in containers run as. The pause container has the same.
const NOBODY: u32 = 65535;

const NOTHING: Option<&str> = None;

/// Gives up the node's files and all rights, for good. What is open stays open.
pub(super) fn seclude() -> io::Result<()> {
    leave_the_files()?;
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setresgid(group, group, group)?;
    // The capabilities go with the user (capabilities(7), "Effect of user ID changes on capabilities").
    setresuid(user, user, user)?;
    set_no_new_privs()?;
    // As after any change of users, unless fs.suid_dumpable says otherwise.
    Ok(set_dumpable(false)?)
}

fn leave_the_files() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is unmounted on the node meanwhile is not to be kept by our copy of it.
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_SLAVE, NOTHING)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), PLACE, Some("tmpfs"), flags, Some(EMPTY))?;
    chdir(PLACE)?;
    match pivot_root(".", ".") {
        // The old root lies on top of the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // A root on a ramdisk cannot be left: it is covered, also for whoever enters the namespace.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING)?;
            chroot(".")?;
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(chdir("/")?)
}
