//! The program's first instructions, before those of the C library.
//!
//! A program that is executed a second time starts a second time. Where that is known to be needed from the words of the
//! command line alone ([`crate::protect`] says what for), it is done here, at a time when the first start has cost next to
//! nothing: no relocation, no allocation, no thread-local storage yet. For the same reason nothing can be used here that
//! needs those: no table of pointers, no function of the C library, not even one the compiler puts in for a loop, hence
//! the volatile reads. What fails here is tried again, in full and with an error to tell, by [`crate::protect::ensure`].

use std::arch::{asm, naked_asm};
use std::mem::MaybeUninit;

use super::mount::{CLONE, CLOSE_ON_EXEC, Change, EMPTY_PATH, attribute};

/// Where the kernel starts the program (`build.rs` tells the linker): the C library's `_start` follows, and finds registers
/// and stack as the kernel, or the dynamic linker, has left them.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn pea_entry() -> ! {
    naked_asm!(
        "push rdx", // for atexit; see the psABI, "Process Initialization"
        "lea rdi, [rsp + 8]",
        "push rdx", // keeps the stack aligned
        "call {}",
        "pop rdx",
        "pop rdx",
        "jmp _start",
        sym begin,
    )
}

/// The same.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn pea_entry() -> ! {
    naked_asm!(
        "str x0, [sp, #-16]!", // for atexit
        "add x0, sp, #16",
        "bl {}",
        "ldr x0, [sp], #16",
        "b _start",
        sym begin,
    )
}

/// Executes the program through a read-only mount of its own file if it is to enter a container. Comes back if it is not,
/// if it has been so executed already, and if that cannot be done here.
///
/// # Safety
///
/// `stack` is the process's initial stack: the number of arguments, their addresses, a null, the variables'.
unsafe extern "C" fn begin(stack: *const usize) {
    const ERRORS: isize = -4096;
    // SAFETY: as the kernel has laid it out.
    let (count, arguments) = unsafe { (*stack, stack.add(1)) };
    // SAFETY: each is a terminated string.
    let enters = (1..count).any(|index| unsafe { is_entering(*arguments.add(index) as *const u8) });
    let own = c"/proc/self/exe".as_ptr() as usize;
    if !enters || is_read_only(own) {
        return;
    }
    let here = libc::AT_FDCWD as usize;
    // SAFETY: the path is terminated.
    let mount = unsafe { call(libc::SYS_open_tree, [here, own, (CLONE | CLOSE_ON_EXEC) as usize, 0, 0]) };
    if (ERRORS..0).contains(&mount) {
        return;
    }
    let (mount, empty, flags) = (mount as usize, c"".as_ptr() as usize, EMPTY_PATH as usize);
    let read_only = Change::set(attribute::READ_ONLY);
    // SAFETY: the structure is of that size; path, arguments and variables are terminated.
    unsafe {
        let change = [mount, empty, flags, &raw const read_only as usize, size_of::<Change>()];
        if call(libc::SYS_mount_setattr, change) == 0 {
            let variables = arguments.add(count + 1);
            call(libc::SYS_execveat, [mount, empty, arguments as usize, variables as usize, flags]);
        }
        call(libc::SYS_close, [mount, 0, 0, 0, 0]);
    }
}

/// Whether a word is a verb that enters a container, or lets it into what it is. One that is not meant as such (an id) does
/// no harm.
///
/// # Safety
///
/// `word` is terminated.
unsafe fn is_entering(word: *const u8) -> bool {
    // SAFETY: as promised.
    unsafe { is(word, c"create".as_ptr()) || is(word, c"exec".as_ptr()) || is(word, c"run".as_ptr()) }
}

/// # Safety
///
/// Both are terminated.
unsafe fn is(word: *const u8, wanted: *const libc::c_char) -> bool {
    let mut index = 0;
    loop {
        // SAFETY: neither has ended before.
        let (byte, other) = unsafe { (word.add(index).read_volatile(), wanted.add(index).read_volatile() as u8) };
        if byte != other || byte == 0 {
            return byte == other;
        }
        index += 1;
    }
}

/// Whether a file is on a mount that is read-only (statfs(2)).
fn is_read_only(path: usize) -> bool {
    const READ_ONLY: u64 = 1;
    /// `struct statfs` of the kernel, on machines of 64 bits: 15 words, the eleventh of which is `f_flags`.
    type About = [u64; 15];
    let mut about = MaybeUninit::<About>::uninit();
    let flags = about.as_mut_ptr().cast::<u64>().wrapping_add(10);
    // SAFETY: the path is terminated, and the kernel fills the structure where it succeeds.
    unsafe { call(libc::SYS_statfs, [path, about.as_mut_ptr() as usize, 0, 0, 0]) == 0 && *flags & READ_ONLY != 0 }
}

/// A system call without the C library, whose `errno` is not there yet: negative numbers are errors.
///
/// # Safety
///
/// That of the call.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result: isize;
    // SAFETY: as promised by the caller; the kernel changes no other registers, and no memory but what it is given.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: the same.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             in("x4") e, options(nostack));
    }
    result
}
