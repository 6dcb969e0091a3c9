//! Extended attributes of open files (xattr(7)).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::check;

/// The names of a file's attributes.
pub fn names(file: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let fd = file.as_raw_fd();
    let bytes = read(|buffer, size| {
        // SAFETY: the kernel writes `size` bytes at most, and none when it is 0.
        unsafe { libc::flistxattr(fd, buffer.cast(), size) }
    })?;
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

/// The value of one.
pub fn get(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    let fd = file.as_raw_fd();
    read(|buffer, size| {
        // SAFETY: the name is terminated; the kernel writes `size` bytes at most, and none when it is 0.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), buffer.cast(), size) }
    })
}

/// Gives a file an attribute.
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is terminated; both outlive the call.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(result.into()).map(drop)
}

/// Asks for the size, then for the content; again if it has grown in between.
fn read(call: impl Fn(*mut u8, usize) -> libc::ssize_t) -> io::Result<Vec<u8>> {
    loop {
        let size = check(call(ptr::null_mut(), 0) as libc::c_long)? as usize;
        let mut bytes = vec![0; size];
        if size == 0 {
            return Ok(bytes);
        }
        match check(call(bytes.as_mut_ptr(), size) as libc::c_long) {
            Ok(length) => {
                bytes.truncate(length as usize);
                return Ok(bytes);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            Err(error) => return Err(error),
        }
    }
}
