use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Wake;
use std::thread;

use super::*;
use crate::memory::Arena;
use crate::memory::arena::tests::{Log, until_waiting};

const MIB: usize = 1 << 20;
/// Longer than anything here takes, unless it hangs.
const HANG: Duration = Duration::from_secs(5);

fn poll(allocation: &mut Allocation, waker: &Waker) -> Poll<Result<AlignedBuf>> {
    Pin::new(allocation).poll(&mut Context::from_waker(waker))
}

#[track_caller]
fn leave_waker(allocation: &mut Allocation, waker: &Waker) {
    assert!(poll(allocation, waker).is_pending());
}

/// A waker that counts what becomes of it, and finds out whether the arena's lock is free then.
struct Uses {
    arena: Arena,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    wakes: AtomicUsize,
    drops: AtomicUsize,
    under_lock: AtomicUsize,
}

impl Uses {
    fn waker(arena: &Arena, counts: &Arc<Counts>) -> Waker {
        Waker::from(Arc::new(Self { arena: arena.clone(), counts: counts.clone() }))
    }

    /// On another thread, which ends when the lock is free after all.
    fn look(&self) {
        let (arena, (done, is_done)) = (self.arena.clone(), mpsc::channel());
        thread::spawn(move || {
            arena.in_use();
            let _ = done.send(());
        });
        self.counts.under_lock.fetch_add(usize::from(is_done.recv_timeout(HANG).is_err()), Ordering::SeqCst);
    }
}

impl Wake for Uses {
    fn wake(self: Arc<Self>) {
        self.counts.wakes.fetch_add(1, Ordering::SeqCst);
        self.look();
    }
}

impl Drop for Uses {
    fn drop(&mut self) {
        self.counts.drops.fetch_add(1, Ordering::SeqCst);
        self.look();
    }
}

#[test]
fn wakers_are_called_and_dropped_without_the_lock() {
    let arena = Arena::new(4 << 20);
    let counts = Arc::new(Counts::default());
    let waker = || Uses::waker(&arena, &counts);
    let drops = || counts.drops.load(Ordering::SeqCst);
    let held = [2, 2].map(|mib| arena.alloc(mib * MIB).unwrap());
    let [mut first, mut second] = [4, 1].map(|mib| arena.alloc_async(mib * MIB));
    leave_waker(&mut first, &waker());
    leave_waker(&mut first, &waker());
    assert_eq!(drops(), 1, "the waker that was replaced");
    leave_waker(&mut second, &waker());
    drop(held);
    assert_eq!(counts.wakes.load(Ordering::SeqCst), 2);
    // The second one stays behind the first, leaves a waker, and is served before it is woken.
    leave_waker(&mut second, &waker());
    arena.shared.pool.lock().turns.ignore_order();
    let before = drops();
    let buffer = poll(&mut second, Waker::noop());
    assert!(buffer.is_ready());
    assert_eq!(drops(), before + 1, "the waker of an allocation that is served");
    leave_waker(&mut first, &waker());
    drop(first);
    drop((buffer, second));
    assert_eq!((drops(), counts.under_lock.load(Ordering::SeqCst)), (5, 0));
}

/// A thread and a task can be served; the task's waker waits for what the thread does then. Gives how often those
/// that wait were told to look before the thread had its buffer, by the drop of a buffer or by the timekeeper.
fn told_before_the_thread_is_served() -> u64 {
    struct WaitsFor(std::sync::Mutex<mpsc::Receiver<()>>);

    impl Wake for WaitsFor {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().recv_timeout(HANG).expect("it was not woken, or after the task");
        }
    }

    let arena = Arena::new(4 << 20);
    let changes = || arena.shared.pool.lock().turns.changes();
    let [small_one, large_one] = [1, 3].map(|mib| arena.alloc(mib * MIB).unwrap());
    // It has to wait for the larger one, so that what fits goes ahead.
    let mut large = arena.alloc_async(4 * MIB);
    leave_waker(&mut large, Waker::noop());
    let log = Log::default();
    // With one alone, `tracing` would go by the timekeeper's thread, which has none, for all threads.
    let _another = tracing::Dispatch::new(Log::default());
    thread::scope(|threads| {
        let (served, is_served) = mpsc::channel();
        let (arena, told) = (&arena, log.clone());
        let thread = threads.spawn(move || {
            let buffer = tracing::subscriber::with_default(told, || arena.alloc(MIB / 2).unwrap());
            // But for its own end.
            let told = arena.shared.pool.lock().turns.changes() - 1;
            let _ = served.send(());
            drop(buffer);
            told
        });
        // When its long wait was logged, nothing but a notification wakes it.
        while log.0.lock().unwrap().is_empty() || arena.shared.pool.waiters() == 0 {
            thread::yield_now();
        }
        let mut small = arena.alloc_async(MIB / 2);
        leave_waker(&mut small, &Arc::new(WaitsFor(std::sync::Mutex::new(is_served))).into());
        let before = changes();
        drop(small_one);
        drop(large_one);
        thread.join().unwrap() - before
    })
}

#[test]
fn threads_are_notified_before_wakers_are_called() {
    // More than once only if the thread does not run for a second, until the timekeeper comes.
    assert!((0..5).any(|_| told_before_the_thread_is_served() == 1));
}

#[test]
fn only_tasks_that_can_be_served_are_woken() {
    let arena = Arena::new(4 << 20);
    let wakes: Vec<_> = (0..20).map(|_| Arc::new(Counts::default())).collect();
    let held = [1, 1, 2].map(|mib| arena.alloc(mib * MIB).unwrap());
    let mut waiting: Vec<_> = wakes
        .iter()
        .map(|counts| {
            let mut allocation = arena.alloc_async(2 * MIB);
            leave_waker(&mut allocation, &Uses::waker(&arena, counts));
            allocation
        })
        .collect();
    let woken = || wakes.iter().map(|counts| counts.wakes.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let [first, second, third] = held;
    drop(first);
    assert_eq!(woken(), [0; 20], "there is no room for any");
    drop((second, third));
    for (served, allocation) in waiting.iter_mut().enumerate() {
        let expected: Vec<_> = (0..20).map(|index| usize::from(index <= served)).collect();
        assert_eq!(woken(), expected);
        assert!(poll(allocation, Waker::noop()).is_ready());
    }
}

/// The first in line is woken and never looks; a thread and a task wait behind it.
#[test]
fn a_task_that_does_not_look_loses_its_place() {
    let arena = Arena::new(4 << 20);
    let held = arena.alloc(4 * MIB).unwrap();
    let mut dead = arena.alloc_async(MIB);
    leave_waker(&mut dead, Waker::noop());
    drop(held);
    assert!(matches!(arena.try_alloc(MIB), Err(Error::OutOfMemory { .. })), "it is its turn");
    // Memory comes back all the time, so that the order counts all the time.
    let counts = Arc::new(Counts::default());
    let mut behind = arena.alloc_async(MIB);
    leave_waker(&mut behind, &Uses::waker(&arena, &counts));
    thread::scope(|threads| {
        let thread = threads.spawn(|| drop(arena.alloc(MIB).unwrap()));
        until_waiting(&arena, 3);
        let end = Instant::now() + HANG;
        let mut task = None;
        while task.is_none() || !thread.is_finished() {
            drop(arena.alloc_staging(4096, true).unwrap());
            if counts.wakes.load(Ordering::SeqCst) > 0 && task.is_none() {
                task = Some(poll(&mut behind, Waker::noop()));
            }
            if Instant::now() > end {
                // Lets the thread go, too.
                drop(dead);
                panic!("it keeps its place");
            }
        }
        assert!(task.is_some_and(|task| task.is_ready()));
        drop(arena.try_alloc(4 * MIB).unwrap());
        assert!(poll(&mut dead, Waker::noop()).is_ready(), "it is served if it looks after all");
    });
}

#[test]
fn tasks_have_a_timekeeper_as_long_as_they_wait() {
    let arena = Arena::new(4 << 20);
    let is_there = || arena.shared.pool.lock().timekeeper.is_some();
    let held = arena.alloc(4 * MIB).unwrap();
    for is_dropped in [true, false, true] {
        let mut waits = arena.alloc_async(MIB);
        assert!(!is_there());
        leave_waker(&mut waits, Waker::noop());
        assert!(is_there());
        if !is_dropped {
            // Its long wait is noted once, and it stays there.
            while arena.shared.pool.lock().turns.next_long_wait(LONG).is_some() {
                thread::yield_now();
            }
            assert!(is_there());
        }
        drop(waits);
        while is_there() {
            thread::yield_now();
        }
    }
    drop(held);
}
