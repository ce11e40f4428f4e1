//! Reaping: what has completed, and the wait that a completion, the limit or the bell ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use aio_core::backend::Completion;
use io_uring::{opcode, types};

use crate::plain::transfer;
use crate::queue::UringQueue;
use crate::ring::Enter;

/// The number of the request that watches the bell; blocks never have it.
const BELL: u64 = u64::MAX;
/// How long the kernel may refuse a submission while it has nothing of ours to finish first.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most of that which one attempt counts for, however long after the last one it comes.
const LAPSE: Duration = Duration::from_millis(100);
/// How long to leave it alone in between.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);
/// How long no request may wait for a kernel worker once the kernel could not make one, which it takes 60 ms to say.
const NO_WORKERS: Duration = Duration::from_secs(5);

/// How long the kernel has been refusing: not by the clock, since the queue may not have asked it in between.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) last: Instant,
    spent: Duration,
}

impl UringQueue {
    /// The body of `reap`, without the end of the wait that every way out of it needs.
    pub(crate) fn reap_or_be_woken(
        &mut self,
        min: usize,
        timeout: Option<Duration>,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let idle = self.in_flight == 0;
        // What went past the ring does not say that the kernel has nothing to report.
        let start = done.len() + self.over.len();
        let goal = done.len() + min.min(self.in_flight);
        let may_wait = timeout != Some(Duration::ZERO) && (idle || min > 0);
        let deadline = timeout.filter(|_| may_wait).and_then(|timeout| Instant::now().checked_add(timeout));
        let mut entered = false;
        loop {
            self.collect(done)?;
            let mut wait = may_wait && (idle || done.len() < goal);
            let limit = deadline.filter(|_| wait).map(|deadline| deadline.saturating_duration_since(Instant::now()));
            wait = wait && limit != Some(Duration::ZERO) && self.waker.announce();
            if wait {
                self.watch_bell()?;
            }
            let nothing_to_gain = entered || done.len() > start || !self.ring.completions_deferred();
            if !wait && nothing_to_gain && self.ring.queued() == 0 {
                return Ok(());
            }
            // One completion at a time, although `min` may be more: the bell is only one, and has to end the wait.
            let then = if wait { Enter::Wait { limit, idle } } else { Enter::Flush };
            match self.enter(then) {
                Ok(()) => entered = true,
                Err(error) => match error.raw_os_error() {
                    // Whether the time is up, the clock says.
                    Some(libc::EINTR | libc::ETIME) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        self.hold_back(error, wait, limit)?;
                        if !wait {
                            return self.collect(done);
                        }
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Moves what has completed to `done`, without a system call but for blocks that the ring did not do.
    pub(crate) fn collect(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut outcome = Ok(());
        self.in_flight -= self.over.len();
        done.append(&mut self.over);
        let mut not_done = Vec::new();
        for completion in self.ring.completions() {
            let (number, result) = (completion.user_data(), completion.result());
            if number == BELL {
                self.bell_watched = None;
                self.waker.bell().silence();
                if result < 0 {
                    outcome = Err(io::Error::from_raw_os_error(-result));
                }
            } else {
                self.in_flight -= 1;
                self.refused = None;
                let block = self.blocks.take(number);
                match result.wrapping_neg() {
                    libc::ECANCELED => {
                        self.no_workers_until = Instant::now().checked_add(NO_WORKERS);
                        not_done.push(*block);
                    }
                    libc::EAGAIN | libc::EOPNOTSUPP => not_done.push(*block),
                    // Linux 5.9 and 5.10 may say so of a read that must not wait.
                    0 if self.no_workers_until.is_some() => not_done.push(*block),
                    _ => done.push(Completion::from_kernel(block.token, result.into())),
                }
            }
        }
        if !not_done.is_empty() {
            self.submit_before_plain_call();
        }
        for block in not_done {
            // SAFETY: the caller of `submit` keeps the block's memory valid until it is reported, which it is by this.
            done.push(unsafe { transfer(&block) });
        }
        outcome
    }

    /// Queues the request that completes when the bell rings, unless there is one. It stays in the ring from one reap
    /// to the next. A poll rather than a read: it names no memory, so nothing has to outlive the ring for it.
    fn watch_bell(&mut self) -> io::Result<()> {
        if self.bell_watched.is_some() {
            return Ok(());
        }
        let watch =
            opcode::PollAdd::new(types::Fd(self.waker.bell().as_fd().as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the request points to no memory.
        if unsafe { self.ring.push(std::iter::once(watch.user_data(BELL))) } == 0 {
            return Err(io::Error::other("the submission queue is full beyond the capacity of the queue"));
        }
        self.bell_watched = Some(self.pushed);
        self.pushed += 1;
        Ok(())
    }

    /// The kernel takes no request now. Lets it finish what it has, for a moment if `wait`, or fails with `cause` if it
    /// has had nothing to finish for too long.
    fn hold_back(&mut self, cause: io::Error, wait: bool, limit: Option<Duration>) -> io::Result<()> {
        let now = Instant::now();
        let refused = self.refused.get_or_insert(Refused { last: now, spent: Duration::ZERO });
        refused.spent += now.saturating_duration_since(refused.last).min(LAPSE);
        refused.last = now;
        let out_of_patience = refused.spent >= PATIENCE;
        if out_of_patience && self.in_flight == self.unsent() {
            return Err(cause);
        }
        let pause = limit.map_or(PAUSE, |limit| limit.min(PAUSE));
        let then = if wait { Enter::Wait { limit: Some(pause), idle: false } } else { Enter::Flush };
        match self.ring.enter(0, then).map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR | libc::ETIME), _)) => Ok(()),
            Err((Some(libc::EAGAIN | libc::EBUSY), _)) => {
                if wait {
                    thread::sleep(pause);
                }
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }
}
