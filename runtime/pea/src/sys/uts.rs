//! The names of the host (uts_namespaces(7)).

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use super::check;

/// Sets the host's name. One that has it already needs no right to set it: a pod's containers share theirs.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the name is as long as is said.
    let set = check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into());
    allowed(set, |names| names.nodename.as_slice(), name)
}

/// The same for the NIS domain name.
pub fn set_domainname(name: &str) -> io::Result<()> {
    // SAFETY: the name is as long as is said.
    let set = check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into());
    allowed(set, |names| names.domainname.as_slice(), name)
}

fn allowed(set: io::Result<libc::c_long>, field: fn(&libc::utsname) -> &[libc::c_char], name: &str) -> io::Result<()> {
    match set {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && is_now(field, name) => Ok(()),
        set => set.map(drop),
    }
}

fn is_now(field: fn(&libc::utsname) -> &[libc::c_char], name: &str) -> bool {
    let mut names = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: the kernel fills the whole structure, or fails.
    let names = match unsafe { libc::uname(names.as_mut_ptr()) } {
        // SAFETY: filled, as just said.
        0 => unsafe { names.assume_init() },
        _ => return false,
    };
    let bytes: Vec<u8> = field(&names).iter().map(|letter| *letter as u8).collect();
    CStr::from_bytes_until_nul(&bytes).is_ok_and(|now| now.to_bytes() == name.as_bytes())
}
