//! Allocations that are awaited.
//!
//! A future waits in the same line as the threads that wait. It looks at the pool and leaves its waker under one
//! lock, and what changes the pool takes the wakers under that lock, so that no change is lost between the two; they
//! are called when the lock is let go of and the threads have been notified, since a waker may wait for what one of
//! these holds.
//!
//! Two rules of the line go by the clock: what fits goes ahead when nothing was dropped for a while, and a long wait
//! is logged. A thread that waits wakes up by itself for these; a task cannot. So while futures wait, and only then,
//! the arena has a thread that keeps the time for them. Where the system has no thread, the order counts for nothing
//! while a future waits behind another allocation: that may be unfair, but the other one may wait for memory of the
//! future's own task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::foreign::{catch, report, report_drop};
use crate::memory::arena::{Inner, LONG};
use crate::memory::buffer::AlignedBuf;
use crate::memory::pool::{Pool, Purpose, Room};
use crate::memory::turns::LULL;
use crate::sync::{MutexGuard, Ordering, thread};
use crate::threads::{block_signals, thread_main};

#[cfg(test)]
mod tests;

/// A buffer to be awaited; see [`Arena::alloc_async`](super::Arena::alloc_async).
#[must_use = "a future does nothing unless it is awaited"]
pub struct Allocation {
    arena: Arc<Inner>,
    len: usize,
    /// Its ticket in the line, once it waits.
    ticket: Option<u64>,
    /// The queues were asked for staging buffers.
    asked: bool,
    is_over: bool,
}

impl Allocation {
    pub(super) fn new(arena: Arc<Inner>, len: usize) -> Self {
        Self { arena, len, ticket: None, asked: false, is_over: false }
    }

    /// `None`: there is no room now, and `waker` is called when it is worth another look.
    fn step(&mut self, waker: &Waker) -> Option<Result<AlignedBuf>> {
        if let Err(error) = self.arena.check_forked() {
            return Some(Err(error));
        }
        if self.len == 0 {
            return Some(Ok(AlignedBuf::empty(self.arena.page)));
        }
        let need = match self.arena.whole_pages(self.len) {
            Ok(need) => need,
            Err(error) => return Some(Err(error)),
        };
        // Foreign code: cloned before, and the one it replaces dropped after, the lock.
        let waker = waker.clone();
        let arena = self.arena.clone();
        let mut pool = arena.pool.lock();
        self.ticket = self.ticket.filter(|&ticket| pool.turns.looks(ticket));
        loop {
            let is_turn = pool.is_turn_of(self.ticket, &arena);
            match if is_turn { pool.room(need, self.asked, &arena) } else { Room::Wait } {
                Room::Ready => {
                    let left = self.leave(&mut pool);
                    let buffer = arena.buffer(pool, need, self.len, Purpose::User);
                    report_drop(left);
                    return Some(buffer);
                }
                Room::Kept => {
                    let left = self.leave(&mut pool);
                    let in_use = pool.in_use;
                    arena.let_go(pool);
                    report_drop(left);
                    return Some(Err(arena.out_of_memory(need, in_use)));
                }
                Room::Ask(regions) => {
                    self.enter(&mut pool, need);
                    self.asked |= regions.is_empty();
                    // Posts it, and does not wait for the answer.
                    pool = arena.ask_for(pool, regions);
                }
                Room::Wait if self.ticket.is_none() => self.enter(&mut pool, need),
                Room::Wait => {
                    if !arena.keep_time(&mut pool) && !is_turn {
                        pool.turns.ignore_order();
                        continue;
                    }
                    let replaced = self.ticket.and_then(|ticket| pool.turns.set_waker(ticket, waker));
                    arena.let_go(pool);
                    report_drop(replaced);
                    return None;
                }
            }
        }
    }

    fn enter(&mut self, pool: &mut Pool, need: usize) {
        if self.ticket.is_none() {
            self.ticket = Some(pool.turns.enter_task(need as u64));
            self.arena.waiting.store(pool.turns.waiting(), Ordering::Relaxed);
        }
    }

    /// Leaves the line, if it is in it. Gives its waker, to be dropped without the lock.
    #[must_use]
    fn leave(&mut self, pool: &mut Pool) -> Option<Waker> {
        pool.turns.leave(self.ticket.take()?)
    }
}

impl Future for Allocation {
    type Output = Result<AlignedBuf>;

    /// Polled again after it was ready, it gives [`Error::ResultTaken`].
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_over {
            return Poll::Ready(Err(Error::ResultTaken));
        }
        match self.step(context.waker()) {
            None => Poll::Pending,
            Some(result) => {
                self.is_over = true;
                Poll::Ready(result)
            }
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // In a forked child the lock may be one that no thread is left to release.
        if self.ticket.is_none() || self.arena.born.is_forked() {
            return;
        }
        let arena = self.arena.clone();
        let mut pool = arena.pool.lock();
        let left = self.leave(&mut pool);
        arena.let_go(pool);
        report_drop(left);
    }
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation").field("len", &self.len).field("waits", &self.ticket.is_some()).finish()
    }
}

impl Inner {
    /// Lets go of the lock, and then wakes those that wait if something changed for them: the threads, and the tasks
    /// that can be served. The wakers are foreign code, so the caller holds no other lock.
    pub(super) fn let_go(&self, mut pool: MutexGuard<'_, Pool>) {
        if !pool.turns.take_changed() {
            return;
        }
        let is_timed = cfg!(loom) || pool.timekeeper.is_some();
        let in_use = pool.in_use;
        let wakers = pool.turns.take_wakers(in_use, self.limit, is_timed);
        self.waiting.store(pool.turns.waiting(), Ordering::Relaxed);
        if let Some(timekeeper) = pool.timekeeper.as_ref().filter(|_| pool.turns.tasks() == 0) {
            timekeeper.thread().unpark();
        }
        drop(pool);
        // First the threads: a waker may need a lock that a thread holds while it waits for memory.
        self.pool.notify_all();
        for waker in wakers {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Makes sure that a thread keeps the time for the tasks that wait. False if there is none to be had.
    fn keep_time(self: &Arc<Self>, pool: &mut Pool) -> bool {
        // Time means nothing to a model.
        if cfg!(loom) || pool.timekeeper.is_some() {
            return true;
        }
        let arena = self.clone();
        let run = move || {
            block_signals();
            thread_main(|| arena.timekeeper());
        };
        match thread::Builder::new().name("aio-arena".into()).spawn(run) {
            Ok(thread) => {
                pool.timekeeper = Some(thread);
                true
            }
            Err(_) => false,
        }
    }

    /// Lives as long as tasks wait.
    fn timekeeper(self: &Arc<Self>) {
        loop {
            let mut pool = self.pool.lock();
            if pool.turns.tasks() == 0 {
                pool.timekeeper = None;
                return;
            }
            let now = Instant::now();
            let mut next = now + LULL;
            match pool.turns.lull_begins() {
                Some(begins) if begins > now => next = begins,
                _ => pool.turns.look_again(),
            }
            if let Some(need) = pool.turns.take_long_wait(now, LONG) {
                pool = self.tell_of_a_long_wait(pool, need as usize);
                next = now;
            } else if let Some(tell_at) = pool.turns.next_long_wait(LONG) {
                next = next.min(tell_at);
            }
            self.let_go(pool);
            thread::park_timeout(next.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
    }
}
