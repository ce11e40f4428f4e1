//! The owner of one kernel AIO context.

use std::io;
use std::time::Duration;

use aio_core::backend::parts::kernel_result;
use libc::{c_long, timespec};

use crate::abi::{io_context_t, io_event, iocb};
use crate::completion_ring::CompletionRing;
use crate::sys;

/// A context from `io_setup` until `io_destroy`, and the ring that is mapped as long. Not `Send`, as the ring is not.
#[derive(Debug)]
pub(crate) struct Context {
    id: io_context_t,
    /// `None` where events have to be fetched by `io_getevents`.
    ring: Option<CompletionRing>,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

impl Context {
    /// A context for `requests` requests at once; `map` says whether to read the ring from user space if possible.
    pub(crate) fn setup(requests: u32, map: bool) -> io::Result<Self> {
        let mut id = std::ptr::null_mut();
        kernel_result(sys::io_setup(requests, &mut id))?;
        // SAFETY: `io_setup` just returned `id`. `destroy` drops the ring before the context, and this type is not
        // `Send`, so one thread reaps.
        let ring = if map { unsafe { CompletionRing::of(id) } } else { None };
        let context = Self {
            id,
            ring,
            #[cfg(test)]
            faults: Faults::default(),
        };
        Ok(context)
    }

    /// Hands requests to the kernel and returns how many it took. An error is about the first one: of those that
    /// concern the context, `io_submit` knows only EINVAL and ENOSYS, which a context that exists does not give.
    ///
    /// # Safety
    ///
    /// `requests` point to valid, exclusively owned iocbs. What an accepted one describes (memory, descriptor) stays
    /// valid until its event is reaped or [`destroy`](Self::destroy) has succeeded.
    pub(crate) unsafe fn submit(&self, requests: &mut [*mut iocb]) -> io::Result<usize> {
        #[cfg(test)]
        self.faults.submits.set(self.faults.submits.get() + 1);
        #[cfg(test)]
        if let Some(errno) = self.faults.submit.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // A slice has fewer than `c_long::MAX` elements of eight bytes.
        let count = requests.len() as c_long;
        // SAFETY: the slice is the array of `count` pointers; the caller vouches for what they point to.
        kernel_result(unsafe { sys::io_submit(self.id, count, requests.as_mut_ptr()) })
    }

    /// Waits for at least `least` events and replaces the contents of `events` by what came, up to its capacity; fewer
    /// after `timeout` (`None`: no limit) or with EINTR.
    pub(crate) fn getevents(
        &self,
        least: usize,
        timeout: Option<Duration>,
        events: &mut Vec<io_event>,
    ) -> io::Result<()> {
        events.clear();
        #[cfg(test)]
        if let Some(errno) = self.faults.getevents.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut timeout = timeout.map(timespec_of);
        let timeout = timeout.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
        let (least, most) = (least as c_long, events.capacity() as c_long);
        // SAFETY: the vector owns room for `most` events, and `timeout` is null or points to a local. `id` is live,
        // or null after `destroy`.
        let count = kernel_result(unsafe { sys::io_getevents(self.id, least, most, events.as_mut_ptr(), timeout) })?;
        // SAFETY: the kernel wrote `count` events, and at most as many as we had room for.
        unsafe { events.set_len(count.min(events.capacity())) };
        Ok(())
    }

    /// The ring, where it can be read from user space.
    pub(crate) fn ring(&mut self) -> Option<&mut CompletionRing> {
        self.ring.as_mut()
    }

    /// Whether `ring` is `Some`.
    pub(crate) fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Ends the context: what can be cancelled is, the rest is waited for. When it succeeds, now or earlier, the kernel
    /// has none of the requests left, and all calls fail afterwards. When it fails, nothing is known of them.
    pub(crate) fn destroy(&mut self) -> io::Result<()> {
        // Also if it fails: what is left of the mapping is not known either.
        self.ring = None;
        if self.id.is_null() {
            return Ok(());
        }
        let destroyed = self.call_destroy();
        if destroyed.is_ok() {
            self.id = std::ptr::null_mut();
        }
        destroyed
    }

    fn call_destroy(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(errno) = self.faults.destroy.borrow_mut().pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // SAFETY: only `destroy` calls this, after it dropped the only user of the mapping, `self.ring`.
        kernel_result(unsafe { sys::io_destroy(self.id) }).map(drop)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Fails where the context does not exist, as in a forked child, which inherits the mapping and not the context.
        let _ = self.destroy();
    }
}

/// Saturates: the kernel takes anything past 292 years for "no limit".
pub(crate) fn timespec_of(duration: Duration) -> timespec {
    timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: c_long::from(duration.subsec_nanos().cast_signed()),
    }
}

/// Errors that the next calls return instead of going to the kernel, and how many `io_submit`s there were.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) submit: std::cell::RefCell<std::collections::VecDeque<i32>>,
    pub(crate) submits: std::cell::Cell<usize>,
    pub(crate) getevents: std::cell::RefCell<std::collections::VecDeque<i32>>,
    pub(crate) destroy: std::cell::RefCell<std::collections::VecDeque<i32>>,
}
