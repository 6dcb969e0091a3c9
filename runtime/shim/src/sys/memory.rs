//! Memory given back to the kernel by who will not miss it.

use std::ffi::c_void;

/// The stack's default limit is eight times this. The kernel maps nothing within 128 MiB below it (`mmap_base` in mm/util.c).
const DEEPEST: usize = 1024 * 1024;
/// Pages below the caller that are left to it: for this very function, and for what it calls.
const IN_USE: usize = 2;
/// The smallest there are. Where the kernel's are larger (16 or 64 KiB on some ARM machines), less is given back.
pub const PAGE: usize = 4096;

/// Gives back what is free in the C library's own heap (malloc_trim(3)).
pub fn trim_c_heap() {
    // SAFETY: has no preconditions; what is in use stays where it is.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back what deeper calls have left on the stack. Only for the thread a program begins with: below another's stack
/// lies what is somebody else's.
pub fn trim_stack() {
    if nix::unistd::gettid() != nix::unistd::getpid() {
        return;
    }
    let here = 0u8;
    let here = (&raw const here).addr();
    let end = (here & !(PAGE - 1)) - IN_USE * PAGE;
    // SAFETY: below the frame of the function that runs there is nothing but what ended calls have left, and beneath the
    // stack nothing at all.
    unsafe { discard(end - DEEPEST, DEEPEST) };
}

/// Unmaps the pages of the program and its libraries that nobody can have changed. They stay in memory as those of a file,
/// for all that run the same program, as long as the kernel has no better use for them; whatever is executed next is mapped
/// again, without being read.
pub fn unmap_program() {
    // SAFETY: the function is of the type asked for, and uses what it is given while it is called only.
    unsafe { libc::dl_iterate_phdr(Some(unmap_object), std::ptr::null_mut()) };
}

unsafe extern "C" fn unmap_object(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> libc::c_int {
    // SAFETY: valid for the time of this call (dl_iterate_phdr(3)), and so are the headers it points to.
    let headers = unsafe {
        let info = &*info;
        (!info.dlpi_phdr.is_null()).then(|| {
            (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
        })
    };
    let Some((base, headers)) = headers else { return 0 };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // An object that lies below where it was linked to has a base that wraps around: the kernel's own (vDSO) may.
        let start = base.wrapping_add(header.p_vaddr as usize);
        let end = start.wrapping_add(header.p_memsz as usize);
        let start = start & !(PAGE - 1);
        // SAFETY: pages of a file that were never writable: when they are used again they are what they were.
        unsafe { discard(start, end.next_multiple_of(PAGE) - start) };
    }
    0
}

/// Gives back the whole pages of a range.
///
/// # Safety
/// Nobody needs what is in it.
pub unsafe fn discard_within(start: usize, length: usize) {
    if let Some((first, length)) = whole_pages(start, length, page()) {
        // SAFETY: the caller's word.
        unsafe { discard(first, length) };
    }
}

/// The size of the kernel's pages.
fn page() -> usize {
    // SAFETY: has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(PAGE)
}

/// The start and the length of the pages that lie within a range. madvise(2) rounds a length up to pages of the kernel's
/// size, so by a smaller one it would take what lies behind the range.
fn whole_pages(start: usize, length: usize, page: usize) -> Option<(usize, usize)> {
    let (first, end) = (start.next_multiple_of(page), (start + length) & !(page - 1));
    (first < end).then(|| (first, end - first))
}

/// madvise(2), `MADV_DONTNEED`. That some of the range is not mapped is no failure, and where it is refused nothing is lost.
///
/// # Safety
/// Nobody needs what the pages of the range hold, unless it is in a file.
unsafe fn discard(start: usize, length: usize) {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller's word.
    unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_given_back_of_which_something_lies_outside() {
        const LARGE: usize = 64 * 1024;
        for (start, length, page, expected) in [
            (0x1_0000, 0x2000, PAGE, Some((0x1_0000, 0x2000))),
            (0x1_0001, 0x2fff, PAGE, Some((0x1_1000, 0x2000))),
            (0x1_0001, 0x1ffe, PAGE, None),
            // Of 4 KiB there would be two, and the kernel would take 64 KiB.
            (0x1_0000, 0x2000, LARGE, None),
            (0x1_0000, 0x1_2000, LARGE, Some((0x1_0000, 0x1_0000))),
            (0x1_1000, 0x1_f000, LARGE, Some((0x2_0000, 0x1_0000))),
        ] {
            assert_eq!(whole_pages(start, length, page), expected, "{length:#x} at {start:#x}, pages of {page:#x}");
        }
    }
}
