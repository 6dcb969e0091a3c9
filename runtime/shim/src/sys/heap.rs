//! The shim's heap.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::{Allocator, Dlmalloc};

use super::memory::{PAGE, discard_within};

/// Doug Lea's allocator: best fit, and nothing held back. The C library's keeps up to seven freed pieces of each size for
/// itself, all over the heap, so that in a pod that rests half of it would be such pieces and what lies between them.
pub struct Heap;

static HEAP: Mutex<Dlmalloc<Pages>> = Mutex::new(Dlmalloc::new_with_allocator(Pages));

/// Whether the heap may grow.
static GROWS: AtomicBool = AtomicBool::new(true);

/// The most pieces that [`hollow`] looks for, and the pages of the largest.
const PIECES: usize = 64;
const LARGEST: usize = 64;

// SAFETY: the allocator's own contract is that of the trait; the lock keeps threads (those of tests) apart.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's word.
        unsafe { heap().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's word.
        unsafe { heap().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the caller's word.
        unsafe { heap().free(piece, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's word.
        unsafe { heap().realloc(piece, layout.size(), layout.align(), size) }
    }
}

fn heap() -> MutexGuard<'static, Dlmalloc<Pages>> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back the whole pages of what is free, wherever it lies. The allocator itself gives back only what is at an end, so
/// its free pieces are asked for, the largest first, emptied, and returned.
pub fn hollow() {
    let mut heap = heap();
    let mut taken = [(ptr::null_mut::<u8>(), 0); PIECES];
    let mut count = 0;
    GROWS.store(false, Ordering::Relaxed);
    for size in (2..=LARGEST).rev().map(|pages| pages * PAGE) {
        while count < PIECES {
            // SAFETY: neither size nor alignment is zero.
            let piece = unsafe { heap.malloc(size, 1) };
            if piece.is_null() {
                break;
            }
            taken[count] = (piece, size);
            count += 1;
        }
    }
    GROWS.store(true, Ordering::Relaxed);
    for (piece, size) in taken.into_iter().take(count) {
        // SAFETY: it is ours, nothing has been written to it, and it is returned as it was asked for.
        unsafe {
            discard_within(piece.addr(), size);
            heap.free(piece, size, 1);
        }
    }
}

/// Where the allocator has its memory from: anonymous mappings.
struct Pages;

// SAFETY: what is handed out is mapped, zero, and nobody else's.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let none = (ptr::null_mut(), 0, 0);
        if !GROWS.load(Ordering::Relaxed) {
            return none;
        }
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping replaces none.
        let pages = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
        if pages == libc::MAP_FAILED { none } else { (pages.cast(), size, 0) }
    }

    fn remap(&self, pages: *mut u8, old: usize, new: usize, can_move: bool) -> *mut u8 {
        let flags = if can_move { libc::MREMAP_MAYMOVE } else { 0 };
        // SAFETY: the allocator remaps what it has from `alloc`.
        let pages = unsafe { libc::mremap(pages.cast(), old, new, flags) };
        if pages == libc::MAP_FAILED { ptr::null_mut() } else { pages.cast() }
    }

    fn free_part(&self, pages: *mut u8, old: usize, new: usize) -> bool {
        // SAFETY: what is beyond the new size the allocator uses no more.
        unsafe { libc::munmap(pages.add(new).cast(), old - new) == 0 }
    }

    fn free(&self, pages: *mut u8, size: usize) -> bool {
        // SAFETY: the allocator uses them no more.
        unsafe { libc::munmap(pages.cast(), size) == 0 }
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_untouched_by_giving_back_what_is_not() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        let sizes = [24, 5000, 100, 70_000, 3, 20_000, 1000, 300_000];
        // SAFETY: each piece is written within its size, read after that, and returned once, by its own layout.
        unsafe {
            let pieces: Vec<(usize, *mut u8)> =
                sizes.iter().cycle().take(200).map(|size| (*size, Heap.alloc(layout(*size)))).collect();
            for (n, (size, piece)) in pieces.iter().enumerate() {
                piece.write_bytes(n as u8, *size);
            }
            let (kept, freed): (Vec<_>, Vec<_>) = pieces.iter().enumerate().partition(|(n, _)| n % 3 == 0);
            for (_, (size, piece)) in freed {
                Heap.dealloc(*piece, layout(*size));
            }
            hollow();
            for (n, (size, piece)) in kept {
                let content = std::slice::from_raw_parts(*piece, *size);
                assert!(content.iter().all(|byte| *byte == n as u8), "piece {n} has changed");
                Heap.dealloc(*piece, layout(*size));
            }
            let zeroed = Heap.alloc_zeroed(layout(100_000));
            assert!(std::slice::from_raw_parts(zeroed, 100_000).iter().all(|byte| *byte == 0));
            Heap.dealloc(zeroed, layout(100_000));
        }
        assert!(GROWS.load(Ordering::Relaxed));
    }
}
