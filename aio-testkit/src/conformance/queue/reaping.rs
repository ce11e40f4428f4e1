//! How long `reap` waits, and for what.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::conformance::Context;
use crate::conformance::rig::{PAGE, Rig, Shuffle, open};
use aio_core::backend::{Completion, IoBlock};
use aio_core::op::Direction;

/// A rig of depth 8 and eight reads that take as long as reads take here.
fn eight_reads(context: &Context<'_>) -> (File, Rig, Vec<IoBlock>) {
    let len = 16 * PAGE;
    let path = context.filled("file", 2, 8 * len);
    let file = open(&path, context.slowest_mode()).expect("open");
    let rig = Rig::new(context.backend, 8, 8 * len);
    let reads = (0..8).map(|at| rig.block(Direction::Read, &file, at as u64, at * len, len, (at * len) as u64));
    let reads = reads.collect();
    (file, rig, reads)
}

pub(super) fn waits_for_the_minimum(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    for min in 1..=8 {
        assert_eq!(rig.submit(&reads), 8);
        let done = rig.reap(min, None);
        assert!(done.len() >= min, "{} completions instead of at least {min}", done.len());
        assert_eq!(rig.finish().len(), 8 - done.len());
    }
}

pub(super) fn clamps_the_minimum(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    for min in [9, 1000, usize::MAX] {
        assert_eq!(rig.submit(&reads[..3]), 3);
        assert_eq!(rig.reap(min, None).len(), 3, "completions of 3 blocks when {min} were asked for");
    }
}

pub(super) fn appends(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    let mut done = vec![Completion { token: 4711, result: Ok(1) }];
    assert_eq!(rig.submit(&reads[..2]), 2);
    rig.queue.reap(2, None, &mut done).expect("reap");
    assert_eq!((done.len(), done[0].token), (3, 4711), "what was in the vector must stay in front: {done:?}");
}

/// A queue that waits here hangs.
pub(super) fn does_not_wait_when_told_so(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    for min in [0, 1, 5] {
        assert!(rig.reap(min, Some(Duration::ZERO)).is_empty(), "completions from nowhere");
    }
    // Polling alone gets everything: what was put off is submitted, what arrived is found.
    for (min, timeout) in [(0, None), (0, Some(Duration::ZERO)), (8, Some(Duration::ZERO))] {
        let mut completions = 0;
        assert_eq!(rig.submit(&reads), 8);
        while rig.queue.in_flight() > 0 {
            completions += rig.reap(min, timeout).len();
            thread::yield_now();
        }
        assert_eq!(completions, 8);
    }
}

/// Only the lower bound is checked: how late a thread comes back is up to the scheduler.
pub(super) fn ends_with_the_timeout(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    for timeout in [1, 7, 20].map(Duration::from_millis) {
        for min in [0, 1, 5] {
            let start = Instant::now();
            assert!(rig.reap(min, Some(timeout)).is_empty(), "completions from nowhere");
            assert!(start.elapsed() >= timeout, "returned for nothing before the timeout of {timeout:?}");
        }
    }
    for micros in [1, 50, 200, 1000] {
        assert_eq!(rig.submit(&reads), 8);
        let timeout = Duration::from_micros(micros);
        let start = Instant::now();
        let done = rig.reap(8, Some(timeout)).len();
        assert!(done == 8 || start.elapsed() >= timeout, "{done} of 8 before the timeout of {timeout:?}");
        assert_eq!(rig.finish().len(), 8 - done, "completions after a timeout");
    }
}

pub(super) fn takes_any_timeout(context: &Context<'_>) {
    let (_file, mut rig, reads) = eight_reads(context);
    for timeout in
        [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(1 << 40), Duration::from_nanos(1)]
    {
        assert_eq!(rig.submit(&reads), 8);
        let done = rig.reap(8, Some(timeout)).len();
        assert!(done == 8 || timeout < Duration::from_secs(1), "{done} of 8 after {timeout:?}");
        rig.finish();
    }
}

/// A handler without SA_RESTART makes system calls fail with EINTR.
pub(super) fn survives_signals(context: &Context<'_>) {
    extern "C" fn handler(_signal: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is async-signal-safe. It stays installed, and is as good as the default
    // of this signal, which is to be ignored.
    unsafe { sigaction(Signal::SIGURG, &action) }.expect("sigaction");

    let ended = AtomicBool::new(false);
    // SAFETY: no arguments.
    let reaper = unsafe { libc::pthread_self() };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                // SAFETY: the reaper does not end before it joined this thread, at the end of the scope.
                unsafe { libc::pthread_kill(reaper, libc::SIGURG) };
                // Leaves the reaper time to get somewhere between two signals.
                thread::sleep(Duration::from_micros(20));
            }
        });
        // Also when an assertion fails.
        let _ends = OnDrop(|| ended.store(true, Ordering::Relaxed));
        let (_file, mut rig, reads) = eight_reads(context);
        let timeout = Duration::from_millis(50);
        let start = Instant::now();
        assert!(rig.reap(1, Some(timeout)).is_empty(), "completions from nowhere");
        assert!(start.elapsed() >= timeout, "a signal ended the wait");
        let mut shuffle = Shuffle(3);
        for _ in 0..100 {
            assert_eq!(rig.submit(&reads), 8);
            let min = 1 + shuffle.below(8);
            let mut done = rig.reap(min, None);
            assert!(done.len() >= min, "a signal ended the wait for {min} after {}", done.len());
            while rig.queue.in_flight() > 0 {
                done.extend(rig.reap(1, None));
            }
            for completion in done {
                assert_eq!(completion.result.expect("read"), 16 * PAGE, "a signal made a read short");
            }
        }
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
