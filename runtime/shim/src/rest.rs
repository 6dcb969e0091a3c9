//! A pod that rests keeps no memory of the work it has done.
//!
//! What a container's creation or a probe needs is used again only when there is another one. Once there has been nothing to
//! do for a while, and just before the event loop goes to sleep, what is free in the heap is given back, what deep calls have
//! left on the stack, and the pages of the program, which stay in the kernel's cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::sys;

/// How long nothing must have happened for a pod to count as quiet.
const QUIET: Duration = Duration::from_millis(500);

/// Knows of the work. Clones are handles to the same.
#[derive(Clone, Default)]
pub struct Rest(Arc<Inner>);

#[derive(Default)]
struct Inner {
    worked: Notify,
    due: AtomicBool,
}

impl Rest {
    /// Something has been done, or is about to.
    pub fn worked(&self) {
        self.0.worked.notify_one();
    }

    /// Sees for ever when it is time to rest.
    pub async fn watch(self) {
        loop {
            self.0.worked.notified().await;
            while tokio::time::timeout(QUIET, self.0.worked.notified()).await.is_ok() {}
            self.0.due.store(true, Ordering::Relaxed);
        }
    }

    /// Rests if it is time. The event loop calls this when it has nothing else to do: whatever ran after it would be mapped
    /// again.
    pub fn if_due(&self) {
        if self.0.due.swap(false, Ordering::Relaxed) {
            sys::hollow();
            sys::trim_c_heap();
            sys::trim_stack();
            sys::unmap_program();
        }
    }
}
