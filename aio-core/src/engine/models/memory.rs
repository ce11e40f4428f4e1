//! Proved: an allocation that waits for a queue to give memory back, or for a buffer to be dropped, is woken by either.

use std::sync::Arc;

use loom::thread;

use super::explore;
use super::still::Belled;
use crate::backend::Wake;
use crate::inbox::Inbox;
use crate::memory::{Arena, Holder, page_size};
use crate::op::buf::IoBuf;

/// Three pages in one region that a queue has registered, of which the middle one is a buffer. Two in one piece can be had
/// when the queue has given the region back, or its end let go of it; `drops`: or the buffer is dropped.
fn wait_for_two_pages(closes: bool, drops: bool) {
    let page = page_size();
    let arena = Arena::new(3 * page as u64);
    let inboxes: Arc<[Inbox]> = [Inbox::default()].into();
    let bell = Arc::new(Belled::new());
    inboxes[0].set_waker(bell.clone());
    arena.serve(&inboxes);
    let [first, middle, last] = [(); 3].map(|()| arena.alloc(page).unwrap());
    let region = arena.region(IoBuf::region(&middle).unwrap(), &Holder::new(&inboxes, 0));
    drop((first, last));
    let worker = {
        let (inboxes, bell) = (inboxes.clone(), bell.clone());
        thread::spawn(move || {
            bell.wait();
            // In this order: the queue lets go, and then the question goes.
            drop(region);
            drop(if closes { inboxes[0].close() } else { inboxes[0].take_requests() });
        })
    };
    let other = thread::spawn(move || {
        if drops {
            drop(middle);
            return None;
        }
        Some(middle)
    });
    drop(arena.alloc(2 * page).unwrap());
    // The worker's end.
    bell.wake();
    worker.join().unwrap();
    drop(other.join().unwrap());
    assert!(arena.mapped() <= 3 * page as u64);
}

#[test]
fn a_region_comes_back() {
    for (closes, drops) in [(false, false), (true, false), (false, true), (true, true)] {
        let what = format!("memory: a queue gives a region back, ends: {closes}, a buffer is dropped: {drops}");
        explore(&what, 3, move || wait_for_two_pages(closes, drops));
    }
}
