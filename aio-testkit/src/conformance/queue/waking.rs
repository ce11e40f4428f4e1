//! A wake-up is never lost, never reported, and costs no capacity.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::conformance::Context;
use crate::conformance::rig::{PAGE, Rig, open};
use aio_core::op::Direction;

/// Long enough to tell a wait that ended by itself from one that never began.
const SHORT: Duration = Duration::from_millis(5);

/// Nothing must be left that ends a wait.
fn expect_no_wake(rig: &mut Rig) {
    let start = Instant::now();
    assert!(rig.reap(1, Some(SHORT)).is_empty(), "completions from nowhere");
    assert!(start.elapsed() >= SHORT, "a reap returned although it was not woken since the last one");
}

pub(super) fn before_a_reap(context: &Context<'_>) {
    let mut rig = Rig::new(context.backend, 4, PAGE);
    let waker = rig.queue.waker();
    for min in [0, 1, 4] {
        waker.wake();
        assert!(rig.reap(min, None).is_empty(), "a wake-up was reported");
        // Also a poll is a reap, and takes the wake-up with it.
        waker.wake();
        assert!(rig.reap(min, Some(Duration::ZERO)).is_empty(), "a wake-up was reported");
        expect_no_wake(&mut rig);
    }
}

pub(super) fn during_a_reap(context: &Context<'_>) {
    let mut rig = Rig::new(context.backend, 4, PAGE);
    for min in [0, 1, 4] {
        let waker = rig.queue.waker();
        let (about_to_wait, waiting) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                waiting.recv().expect("the reaper");
                waker.wake();
            });
            about_to_wait.send(()).expect("the waker");
            assert!(rig.reap(min, None).is_empty(), "a wake-up was reported");
        });
        expect_no_wake(&mut rig);
    }
}

pub(super) fn many_times_is_waking_once(context: &Context<'_>) {
    let mut rig = Rig::new(context.backend, 1, PAGE);
    // Every waker of a queue wakes the same queue.
    let wakers = [rig.queue.waker(), rig.queue.waker()];
    for _ in 0..3 {
        for waker in wakers.iter().cycle().take(1000) {
            waker.wake();
        }
        assert!(rig.reap(1, None).is_empty(), "a wake-up was reported");
        expect_no_wake(&mut rig);
    }
}

/// Whatever told the queue of a wake-up must not keep it busy afterwards. Processor time, unlike time, is hardly used
/// by a thread that sleeps, however loaded the machine is.
pub(super) fn is_over_after_the_reap(context: &Context<'_>) {
    const WAIT: Duration = Duration::from_millis(40);
    let mut rig = Rig::new(context.backend, 4, PAGE);
    let waker = rig.queue.waker();
    for _ in 0..3 {
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            rig.reap(1, None);
        });
        let before = processor_time();
        assert!(rig.reap(1, Some(WAIT)).is_empty(), "completions from nowhere");
        let used = processor_time() - before;
        assert!(used < WAIT / 4, "a reap that waited for {WAIT:?} used {used:?} of processor time");
    }
}

/// Of the calling thread.
fn processor_time() -> Duration {
    nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the clock of this thread").into()
}

/// Fills the queue to its capacity again and again with a wake-up on the way each time.
pub(super) fn with_a_full_queue(context: &Context<'_>) {
    let path = context.filled("file", 2, 64 * PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    for depth in [1, 2, 8] {
        let mut rig = Rig::new(context.backend, depth, depth * PAGE);
        let capacity = rig.queue.capacity();
        let waker = rig.queue.waker();
        for round in 0..200 {
            let blocks: Vec<_> = (0..capacity)
                .map(|at| {
                    let (token, offset) = ((round * capacity + at) as u64, (at * PAGE) as u64);
                    rig.block(Direction::Read, &file, token, at * PAGE, PAGE, offset)
                })
                .collect();
            if round % 2 == 0 {
                waker.wake();
            }
            let mut accepted = 0;
            while rig.queue.in_flight() < capacity {
                let more = rig.submit(&blocks[accepted..]);
                assert!(more > 0, "the wake-up took the place of a block: {accepted} of {capacity} accepted");
                accepted += more;
            }
            if round % 3 == 0 {
                waker.wake();
            }
            // Ends with the wake-up or with all blocks, whichever is first.
            let done = rig.reap(capacity, None).len();
            let rest = rig.finish();
            assert_eq!(rest.len(), capacity - done);
            rest.expect_all_moved(PAGE);
        }
        // The last rounds may have left one: a reap that returned with completions need not have seen it.
        waker.wake();
        assert!(rig.reap(1, None).is_empty(), "a wake-up was reported");
        expect_no_wake(&mut rig);
    }
}

/// A lost wake-up hangs this check: the other thread wakes again only after it was answered.
pub(super) fn is_never_lost(context: &Context<'_>) {
    const ROUNDS: usize = 5000;
    let mut rig = Rig::new(context.backend, 4, PAGE);
    let waker = rig.queue.waker();
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (answer, answers) = mpsc::channel();
        let asked = &asked;
        scope.spawn(move || {
            wake_round_by_round(ROUNDS, asked, &answers, |round| {
                waker.wake();
                // A second one, that arrives anywhere around the return of the reap.
                if round % 3 == 0 {
                    waker.wake();
                }
            });
        });
        for round in 1..=ROUNDS {
            while asked.load(Ordering::Acquire) < round {
                assert!(rig.reap(round % 2, None).is_empty(), "a wake-up was reported");
            }
            answer.send(round).expect("the waking thread");
        }
    });
}

/// The waking thread: says in `asked` which round it is, wakes, and waits for the answer.
fn wake_round_by_round(rounds: usize, asked: &AtomicUsize, answers: &mpsc::Receiver<usize>, wake: impl Fn(usize)) {
    for round in 1..=rounds {
        asked.store(round, Ordering::Release);
        wake(round);
        if answers.recv() != Ok(round) {
            return;
        }
    }
}

/// No wake-up is lost either where completions end the same waits.
pub(super) fn is_never_lost_among_completions(context: &Context<'_>) {
    const ROUNDS: usize = 3000;
    let path = context.filled("file", 2, 64 * PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    let mut rig = Rig::new(context.backend, 2, 2 * PAGE);
    let waker = rig.queue.waker();
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (answer, answers) = mpsc::channel();
        let asked = &asked;
        scope.spawn(move || wake_round_by_round(ROUNDS, asked, &answers, |_| waker.wake()));
        let mut completed = 0;
        for round in 1..=ROUNDS {
            let offset = (round % 64 * PAGE) as u64;
            let block = rig.block(Direction::Read, &file, round as u64, round % 2 * PAGE, PAGE, offset);
            if rig.queue.in_flight() == 0 {
                assert_eq!(rig.submit(&[block]), 1);
            }
            while asked.load(Ordering::Acquire) < round {
                completed += rig.reap(1, None).len();
            }
            answer.send(round).expect("the waking thread");
        }
        completed += rig.finish().len();
        assert!(completed > 0, "nothing was in flight");
    });
}

/// Its descriptor may belong to another file by then.
pub(super) fn after_the_queue_is_gone(context: &Context<'_>) {
    let rig = Rig::new(context.backend, 4, PAGE);
    let waker = rig.queue.waker();
    waker.wake();
    drop(rig);
    // These take the numbers that the queue gave back.
    let paths: Vec<_> = (0..64).map(|index| context.folder.join(index.to_string())).collect();
    let files: Vec<_> = paths.iter().map(|path| File::create(path).expect("create")).collect();
    let mut other = Rig::new(context.backend, 4, PAGE);
    thread::scope(|scope| {
        scope.spawn(|| waker.wake());
    });
    waker.wake();
    expect_no_wake(&mut other);
    drop(files);
    for path in &paths {
        let mut content = Vec::new();
        File::open(path).and_then(|mut file| file.read_to_end(&mut content)).expect("read");
        assert!(content.is_empty(), "a waker wrote into a file that was opened after its queue was closed");
    }
    drop(waker);
}
