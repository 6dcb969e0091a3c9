//! The command line of `pea`: what was asked for, and the exit code.
//!
//! Without the standard library's own start, which costs a dozen system calls: what of it matters here is in
//! [`pea::command::main`].
#![no_main]
// By the name that the C library calls; it is what is unsafe about it.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    pea::command::main().into()
}
