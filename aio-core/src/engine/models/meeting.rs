//! Proved: a thread that waits in a `ThreadSync` is notified of every change that was made under its lock,
//! although a notification is left out where no thread seems to wait.
//!
//! Two threads that wait and one that changes, or one and two; any number of preemptions.

use std::sync::Arc;

use loom::thread;

use super::explore;
use crate::sync::ThreadSync;

#[test]
fn all_who_wait_hear_of_a_change() {
    explore("meeting: one change, two waiters", None, || {
        let meeting = Arc::new(ThreadSync::new(false));
        let waiter = {
            let meeting = meeting.clone();
            thread::spawn(move || assert!(meeting.wait_until(meeting.lock(), None, |change| *change).1))
        };
        let other = {
            let meeting = meeting.clone();
            thread::spawn(move || {
                *meeting.lock() = true;
                meeting.notify_all();
            })
        };
        assert!(meeting.wait_until(meeting.lock(), None, |change| *change).1);
        waiter.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn each_change_reaches_one_who_waits() {
    explore("meeting: two changes, one for each waiter", None, || {
        let meeting = Arc::new(ThreadSync::new(0));
        let take = |meeting: &ThreadSync<usize>| {
            *meeting.wait_until(meeting.lock(), None, |items| *items > 0).0 -= 1;
        };
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let meeting = meeting.clone();
                thread::spawn(move || take(&meeting))
            })
            .collect();
        for _ in 0..2 {
            *meeting.lock() += 1;
            meeting.notify_one();
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(*meeting.lock(), 0);
    });
}
