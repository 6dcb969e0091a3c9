//! Keeping this program's own file out of a container's reach.
//!
//! While a process of ours is inside a container, before it executes the container's program, `/proc/PID/exe` leads from
//! in there to our binary on the machine; and a container may have that link executed and written to later. Whoever
//! overwrites the binary so owns the machine at the next call (the class of CVE-2019-5736). So what enters a container
//! runs from a file that cannot be written to.
//!
//! That takes a second execution, of a program whose first start is cut off as early as can be (`sys/entry.rs`). What would
//! save it does not hold:
//!
//! - Not to be dumpable keeps others from the link, but not the process itself: a container whose program is
//!   `#!/proc/self/exe`, or a link to it, has our own `execve` follow it, and what runs then is our binary, as an ordinary
//!   process of the container, open to all others in it. No check of the path comes before that: a script's interpreter is
//!   looked up by the kernel, and what lies at a path can change after any look at it.
//! - To execute by a descriptor, closed on exec, would keep scripts (and the names of programs) from working.
//! - `PR_SET_MM_EXE_FILE` wants all of the old file unmapped first, which is the code that would call it.
//! - To execute a small program in between, from inside, would use up the label meant for the container's program
//!   (`/proc/self/attr/exec`), and need more of the seccomp filter than `execve`.
//!
//! A user namespace whose root is nobody on the machine could do without; it is not worth a difference.

use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::{AtFlags, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::execveat;

use crate::error::Error;
use crate::sys::mount::{Change, attribute, change, clone_tree};

const OWN_EXE: &str = "/proc/self/exe";

/// Makes sure that this program runs from a file nobody can write to by `/proc/PID/exe`.
///
/// Where it does not yet, the program is executed once more, from the start and with the same arguments: through a
/// read-only mount of its own file that is attached nowhere, or, where mounting is not permitted, from a sealed copy in
/// memory. (A copy each time would cost megabytes a call; the mount costs one system call.) To be called while there is
/// one thread, and before anything was changed. As a rule it has nothing to do any more (`sys/entry.rs`).
///
/// # Errors
///
/// When the file can neither be mounted read-only nor copied.
pub fn ensure() -> Result<(), Error> {
    let own = File::open(OWN_EXE).map_err(|error| Error::io(format!("open {OWN_EXE}"), error))?;
    if is_safe(&own) {
        return Ok(());
    }
    let image = match read_only_mount(own.as_fd()) {
        Ok(mount) => mount,
        Err(_) => sealed_copy(own).map_err(|error| Error::io("copy the program into memory", error))?,
    };
    let error = execute(image.as_fd());
    Err(Error::io("execute the protected program", error))
}

/// Whether nobody can open it for writing through a link in /proc.
fn is_safe(file: &File) -> bool {
    let read_only = fstatvfs(file).is_ok_and(|about| about.flags().contains(FsFlags::ST_RDONLY));
    read_only || is_sealed(file)
}

fn is_sealed(file: &File) -> bool {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_WRITE))
}

fn read_only_mount(own: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = clone_tree(own, Path::new(""), false, true)?;
    change(mount.as_fd(), false, Change::set(attribute::READ_ONLY))?;
    Ok(mount)
}

fn sealed_copy(mut own: File) -> io::Result<OwnedFd> {
    let mut copy = File::from(memfd_create(c"pea", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    io::copy(&mut own, &mut copy)?;
    copy.rewind()?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

fn execute(image: BorrowedFd<'_>) -> io::Error {
    let string = |text: OsString| CString::new(text.into_vec());
    let arguments: Result<Vec<CString>, _> = env::args_os().map(string).collect();
    let variables = env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        string(name)
    });
    let variables: Result<Vec<CString>, _> = variables.collect();
    match (arguments, variables) {
        (Ok(arguments), Ok(variables)) => {
            let Err(error) = execveat(image, c"", &arguments, &variables, AtFlags::AT_EMPTY_PATH);
            error.into()
        }
        // Cannot be: they came to us as strings that end with a NUL.
        _ => io::ErrorKind::InvalidInput.into(),
    }
}
