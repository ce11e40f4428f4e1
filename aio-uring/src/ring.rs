//! A ring: the two queues shared with the kernel, and the one system call that moves both.
//!
//! [`Ring`] knows nothing of blocks. It does not count what is in flight, does not retry, and does not wait for
//! anything when it is dropped: all of that is the queue's.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use aio_core::backend::parts::{ProcessGeneration, log};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};

use crate::setup::{self, Rung};

/// One io_uring instance.
pub(crate) struct Ring {
    uring: IoUring,
    rung: Rung,
    enter_fd: EnterFd,
    /// `IORING_FEAT_EXT_ARG`: the wait itself takes a timeout (Linux 5.11).
    pub(crate) ext_arg: bool,
    /// Returned errors instead of entering the kernel: what no test can make a healthy kernel say.
    #[cfg(test)]
    pub(crate) fault: std::cell::RefCell<Option<Fault>>,
    /// A registered index means something only on the thread that registered it, and so not in a forked child.
    made_in: ProcessGeneration,
    _not_send: PhantomData<*mut ()>,
}

/// Given the number of requests to submit, the errno to fail with.
#[cfg(test)]
pub(crate) type Fault = Box<dyn FnMut(usize) -> Option<i32>>;

/// What `io_uring_enter(2)` is called with.
#[derive(Clone, Copy)]
enum EnterFd {
    Plain(RawFd),
    /// An index into the thread's own table, which saves the look-up of the descriptor on every call (Linux 5.18).
    Registered(u32),
}

/// What one system call does besides submitting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Enter {
    /// Nothing.
    Submit,
    /// Posts the completions that were deferred.
    Flush,
    /// Posts them and waits until there is at least one, or `limit` passed. `idle`: the wait is not for I/O, and the
    /// kernel should not account it as such.
    Wait { limit: Option<Duration>, idle: bool },
}

impl Ring {
    /// Sets up a ring on the first rung of `ladder` that the kernel takes.
    pub(crate) fn open(ladder: &[Rung], entries: u32) -> io::Result<Self> {
        let (uring, rung) = setup::open(ladder, entries)?;
        let fd = uring.as_raw_fd();
        let enter_fd = register_ring_fd(fd).map_or(EnterFd::Plain(fd), EnterFd::Registered);
        let ext_arg = uring.params().is_feature_ext_arg();
        Ok(Self {
            uring,
            rung,
            enter_fd,
            ext_arg,
            #[cfg(test)]
            fault: std::cell::RefCell::default(),
            made_in: ProcessGeneration::now(),
            _not_send: PhantomData,
        })
    }

    /// The most requests that fit between two system calls, and in flight, whichever is fewer.
    pub(crate) fn entries(&self) -> usize {
        self.uring.params().sq_entries().min(self.uring.params().cq_entries()) as usize
    }

    /// What this ring uses, in the words of the man pages.
    pub(crate) fn features(&self) -> Vec<String> {
        let registered = matches!(self.enter_fd, EnterFd::Registered(_));
        let extras = [
            (registered, "REGISTER_RING_FDS"),
            (self.ext_arg, "EXT_ARG"),
            (self.uring.params().is_feature_no_iowait(), "NO_IOWAIT"),
        ];
        let extras = extras.into_iter().filter_map(|(present, name)| present.then_some(name));
        self.rung.iter().map(|flag| flag.name).chain(extras).map(String::from).collect()
    }

    /// For `io_uring_register(2)`.
    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    /// Queues requests for the next [`enter`](Self::enter), as many as there is room for, and returns how many. They
    /// show to the kernel together, at the end.
    ///
    /// # Safety
    ///
    /// What a request points to stays valid until its completion was taken from [`completions`](Self::completions), or
    /// the ring is closed without it having been submitted.
    pub(crate) unsafe fn push(&mut self, requests: impl Iterator<Item = squeue::Entry>) -> usize {
        let mut queue = self.uring.submission();
        let room = queue.capacity() - queue.len();
        let mut pushed = 0;
        // No request is taken from the iterator that is not pushed.
        for request in requests.take(room) {
            // SAFETY: the caller's contract is the one of `push`.
            if unsafe { queue.push(&request) }.is_err() {
                break;
            }
            pushed += 1;
        }
        pushed
    }

    /// Requests pushed that the kernel has not taken yet.
    pub(crate) fn queued(&mut self) -> usize {
        self.uring.submission().len()
    }

    /// Whether completions wait for a system call to be posted.
    pub(crate) fn completions_deferred(&mut self) -> bool {
        self.uring.submission().taskrun()
    }

    /// The completions that were posted; taking one frees its place.
    pub(crate) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.uring.completion()
    }

    /// Enters the kernel once: submits the first `submit` queued requests and does what `then` says. Returns how many
    /// it took.
    ///
    /// It waits only if it took all of them. ETIME is the limit; it, and every other error, means that none was taken.
    /// A wait may also end for no visible reason.
    pub(crate) fn enter(&self, submit: usize, then: Enter) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(errno) = self.fault.borrow_mut().as_mut().and_then(|fault| fault(submit)) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        match then {
            Enter::Submit => self.enter_raw(submit, 0, EnterFlags::empty(), None),
            Enter::Flush => self.enter_raw(submit, 0, EnterFlags::GETEVENTS, None),
            Enter::Wait { limit, idle } => {
                let mut flags = EnterFlags::GETEVENTS;
                flags.set(EnterFlags::NO_IOWAIT, idle && self.uring.params().is_feature_no_iowait());
                match limit {
                    None => self.enter_raw(submit, 1, flags, None),
                    Some(limit) if self.ext_arg => {
                        let limit = Timespec::from(limit);
                        let args = SubmitArgs::new().timespec(&limit);
                        self.enter_raw(submit, 1, flags | EnterFlags::EXT_ARG, Some(&args))
                    }
                    Some(limit) => self.enter_and_poll(submit, limit),
                }
            }
        }
    }

    /// A wait with a limit on kernels whose wait takes none: the ring's descriptor is readable while it has completions.
    /// Not for DEFER_TASKRUN, which such kernels do not have either: deferred completions do not end a poll.
    fn enter_and_poll(&self, submit: usize, limit: Duration) -> io::Result<usize> {
        let taken = self.enter_raw(submit, 0, EnterFlags::GETEVENTS, None)?;
        if taken < submit {
            return Ok(taken);
        }
        let mut ring = libc::pollfd { fd: self.uring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let limit = libc::timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos() as _,
        };
        // SAFETY: one pollfd and one timespec, both live for the call; no signal mask.
        let ready = unsafe { libc::ppoll(&mut ring, 1, &limit, ptr::null()) };
        match ready {
            // Taken requests outweigh whatever ended the wait: the caller looks at the clock itself.
            _ if taken > 0 => Ok(taken),
            0 => Err(io::Error::from_raw_os_error(libc::ETIME)),
            1.. => self.enter_raw(0, 0, EnterFlags::GETEVENTS, None),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// `io_uring_enter(2)`. Not the one of the `io-uring` crate: that one knows a registered descriptor only for as
    /// long as it borrows the ring.
    fn enter_raw(
        &self,
        submit: usize,
        wait: u32,
        flags: EnterFlags,
        args: Option<&SubmitArgs<'_, '_>>,
    ) -> io::Result<usize> {
        let (fd, flags) = match self.enter_fd {
            EnterFd::Plain(fd) => (fd.into(), flags),
            EnterFd::Registered(index) => (libc::c_long::from(index), flags | EnterFlags::REGISTERED_RING),
        };
        let args: *const SubmitArgs<'_, '_> = args.map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `fd` names this ring, which is open as long as `self` and, if registered, registered on this thread
        // (`Ring` is not Send). `args` is null or, with EXT_ARG, a live io_uring_getevents_arg whose timespec outlives
        // it. What the submitted requests point to is valid by the contract of `push`.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                submit as libc::c_ulong,
                libc::c_ulong::from(wait),
                libc::c_ulong::from(flags.bits()),
                args,
                size_of::<SubmitArgs<'_, '_>>(),
            )
        };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Ring {
    /// The table of a thread has 16 places, and an entry there keeps the ring open.
    fn drop(&mut self) {
        if let EnterFd::Registered(index) = self.enter_fd
            && !self.made_in.is_forked()
            && let Err(error) = unregister_ring_fd(self.uring.as_raw_fd(), index)
        {
            log(|| {
                tracing::warn!(%error, "io_uring stays open until its thread ends: its descriptor cannot be unregistered");
            });
        }
    }
}

/// `struct io_uring_rsrc_update` of `linux/io_uring.h`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

const IORING_REGISTER_RING_FDS: libc::c_ulong = 20;
const IORING_UNREGISTER_RING_FDS: libc::c_ulong = 21;

/// Registers the ring in the calling thread's table, in any place. None: an older kernel, or no place left.
fn register_ring_fd(ring: RawFd) -> Option<u32> {
    let any_place = u32::MAX;
    let mut update = RingFdUpdate { offset: any_place, resv: 0, data: u64::try_from(ring).ok()? };
    register(ring, IORING_REGISTER_RING_FDS, &mut update).ok()?;
    Some(update.offset)
}

fn unregister_ring_fd(ring: RawFd, index: u32) -> io::Result<()> {
    register(ring, IORING_UNREGISTER_RING_FDS, &mut RingFdUpdate { offset: index, resv: 0, data: 0 })
}

fn register(ring: RawFd, opcode: libc::c_ulong, update: &mut RingFdUpdate) -> io::Result<()> {
    // SAFETY: both opcodes read and write an array of as many updates as the last argument says: this one.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            libc::c_long::from(ring),
            opcode,
            ptr::from_mut(update),
            1 as libc::c_ulong,
        )
    };
    match changed {
        1.. => Ok(()),
        0 => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Err(io::Error::last_os_error()),
    }
}
