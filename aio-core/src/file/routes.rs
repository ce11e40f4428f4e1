//! The two routes that writes of one inode take, past the page cache and through it, and why never both at once.
//!
//! A direct write covers whole pages. Before the device writes, the kernel writes out and drops what the cache holds
//! of them; afterwards it drops them again, since a reader may have brought the old bytes back meanwhile. That second
//! step cannot drop a page that is dirty: the kernel then logs "Page cache invalidation failure on direct I/O", fails
//! the next sync with EIO, and leaves the old bytes in the cache, from where a later small write may carry them to
//! the device.
//!
//! No write of ours makes a page dirty that another one of ours writes past the cache. But the cache is kept in
//! folios, which may be larger than a page: the read-ahead of any process that reads the file brings in large ones,
//! and a folio is dirty as a whole. So what dirties pages (edges, writes through the cache, changes of the length
//! inside a page) and direct writes of one inode are never in flight together. When the first direct write begins, no
//! write through the cache is in flight, and the kernel's own first step cleans every folio that the write touches.
//!
//! Neither route starves: while a write waits for the other route, none enters this one. All that wait for a route
//! enter it together, so the more writes there are, the more of them share it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::process::Generation;
use crate::sync::{AtomicU64, Mutex, Ordering, lock, mpsc};

/// Which way a write goes, or a change of the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Past the page cache.
    Direct,
    /// Through the page cache.
    Cached,
}

/// The permits of an inode that writes hold, and the writes that wait for one.
#[derive(Debug)]
pub(crate) struct Routes {
    /// [`WAITING`], [`CACHED`], and from [`ONE`] on the number of permits held.
    word: AtomicU64,
    /// Not empty only while [`WAITING`] is set, which changes under this lock.
    waiting: Mutex<VecDeque<Waiter>>,
    made_in: Generation,
}

/// Writes wait, and none enters past them.
const WAITING: u64 = 1;
/// The permits held are for [`Route::Cached`].
const CACHED: u64 = 2;
const ONE: u64 = 4;

/// A write that waits for its route.
struct Waiter {
    route: Route,
    /// By which it can be withdrawn.
    key: Option<usize>,
    then: Box<dyn FnOnce(RoutePermit) + Send>,
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("route", &self.route).finish_non_exhaustive()
    }
}

/// Permission to have writes in flight on one route, until it is dropped. Not under a lock that a waiter may take.
#[derive(Debug)]
pub(crate) struct RoutePermit {
    routes: Arc<Routes>,
}

/// Writes on the other route are in flight, or wait.
#[derive(Debug)]
pub(crate) struct RouteBusy;

impl Route {
    fn bit(self) -> u64 {
        if self == Self::Cached { CACHED } else { 0 }
    }
}

impl Routes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { word: AtomicU64::new(0), waiting: Mutex::default(), made_in: Generation::now() })
    }

    /// A permit, if it can be had at once.
    pub(crate) fn try_enter(self: &Arc<Self>, route: Route) -> Result<RoutePermit, RouteBusy> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let is_open = word & WAITING == 0 && (word < ONE || word & CACHED == route.bit());
            if !is_open {
                return Err(RouteBusy);
            }
            let next = ((word & !CACHED) | route.bit()) + ONE;
            match self.word.compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(RoutePermit { routes: self.clone() }),
                Err(changed) => word = changed,
            }
        }
    }

    /// Gives `what` back with a permit, if one can be had at once; else `then` gets both later, on the thread that
    /// drops the last permit of the other route. Like this call, `then` must not block. By its `key`, it can be
    /// [withdrawn](Self::withdraw).
    pub(crate) fn enter<T: Send + 'static>(
        self: &Arc<Self>,
        route: Route,
        key: Option<usize>,
        what: T,
        then: impl FnOnce(T, RoutePermit) + Send + 'static,
    ) -> Option<(T, RoutePermit)> {
        if let Ok(permit) = self.try_enter(route) {
            return Some((what, permit));
        }
        let mut waiting = lock(&self.waiting);
        // From here on no other thread enters, and the thread that drops the last permit takes the lock.
        let word = self.word.fetch_or(WAITING, Ordering::AcqRel);
        if word < ONE && waiting.is_empty() {
            self.word.store(ONE | route.bit(), Ordering::Release);
            return Some((what, RoutePermit { routes: self.clone() }));
        }
        waiting.push_back(Waiter { route, key, then: Box::new(move |permit| then(what, permit)) });
        None
    }

    /// A permit, for a thread that may wait: not one that completes ops.
    pub(crate) fn wait(self: &Arc<Self>, route: Route) -> RoutePermit {
        loop {
            let (give, given) = mpsc::channel();
            let entered = self.enter(route, None, give, |give, permit| drop(give.send(permit)));
            // What waits is called before it is dropped.
            if let Some(permit) = entered.map(|(_, permit)| permit).or_else(|| given.recv().ok()) {
                return permit;
            }
        }
    }

    /// Takes back what waits under this key; true if it was there. It is dropped, and not called.
    pub(crate) fn withdraw(&self, key: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        let Some(index) = waiting.iter().position(|waiter| waiter.key == Some(key)) else { return false };
        let withdrawn = waiting.remove(index);
        if waiting.is_empty() {
            self.word.fetch_and(!WAITING, Ordering::AcqRel);
        }
        drop(waiting);
        drop(withdrawn);
        true
    }

    fn leave(self: &Arc<Self>) {
        let word = self.word.fetch_sub(ONE, Ordering::AcqRel) - ONE;
        if word < ONE && word & WAITING != 0 {
            self.give_to_waiters();
        }
    }

    /// Gives a permit to all that wait for the route that the first of them waits for.
    fn give_to_waiters(self: &Arc<Self>) {
        let mut waiting = lock(&self.waiting);
        let Some(route) = waiting.front().map(|first| first.route) else { return };
        // Another thread may have been here first.
        if self.word.load(Ordering::Acquire) >= ONE {
            return;
        }
        let (given, left): (VecDeque<_>, VecDeque<_>) = waiting.drain(..).partition(|waiter| waiter.route == route);
        let flag = if left.is_empty() { 0 } else { WAITING };
        // While WAITING was set and no permit was held, no other thread changed it.
        self.word.store((given.len() as u64 * ONE) | route.bit() | flag, Ordering::Release);
        *waiting = left;
        drop(waiting);
        // The engine puts what it gets back at the front of its queue: the first of them last.
        for waiter in given.into_iter().rev() {
            (waiter.then)(RoutePermit { routes: self.clone() });
        }
    }
}

impl Drop for RoutePermit {
    fn drop(&mut self) {
        // In a forked child no other thread leaves, and the lock may be held for ever.
        if !self.routes.made_in.is_forked() {
            self.routes.leave();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn never((): (), _: RoutePermit) {
        panic!("it got its permit at once, and another one later");
    }

    #[test]
    fn one_route_is_open_at_a_time() {
        let routes = Routes::new();
        for (one, other) in [(Route::Direct, Route::Cached), (Route::Cached, Route::Direct)] {
            let first = routes.enter(one, None, (), never).unwrap();
            let second = routes.enter(one, None, (), never).unwrap();
            drop(first);
            assert!(routes.try_enter(other).is_err());
            drop(second);
            drop(routes.enter(other, None, (), never).unwrap());
        }
    }

    #[test]
    fn writes_that_wait_are_not_overtaken_and_enter_together() {
        let routes = Routes::new();
        let first = routes.try_enter(Route::Direct).unwrap();
        let permits = Arc::new(Mutex::new(Vec::new()));
        for at in 0..3 {
            for route in [Route::Cached, Route::Direct] {
                let permits = permits.clone();
                let then = move |at, permit| lock(&permits).push((at, route, permit));
                assert!(routes.enter(route, None, at, then).is_none());
            }
        }
        let take = || std::mem::take(&mut *lock(&permits));
        assert!(take().is_empty());
        drop(first);
        let cached = take();
        assert!(cached.iter().map(|(at, route, _)| (*at, *route)).eq([2, 1, 0].map(|at| (at, Route::Cached))));
        assert!(routes.try_enter(Route::Cached).is_err(), "past those that wait");
        drop(cached);
        let direct = take();
        assert!(direct.iter().map(|(at, route, _)| (*at, *route)).eq([2, 1, 0].map(|at| (at, Route::Direct))));
        drop(routes.try_enter(Route::Direct).unwrap());
        drop(direct);
        drop(routes.try_enter(Route::Cached).unwrap());
    }

    #[test]
    fn what_is_withdrawn_is_not_called_and_holds_up_nothing() {
        let routes = Routes::new();
        let first = routes.try_enter(Route::Direct).unwrap();
        let held = Arc::new(());
        assert!(routes.enter(Route::Cached, Some(7), held.clone(), |_, _| panic!("withdrawn")).is_none());
        assert!(routes.try_enter(Route::Direct).is_err() && !routes.withdraw(8));
        assert!(routes.withdraw(7) && !routes.withdraw(7));
        assert_eq!(Arc::strong_count(&held), 1);
        drop(routes.try_enter(Route::Direct).unwrap());
        drop(first);
        drop(routes.try_enter(Route::Cached).unwrap());
    }

    #[test]
    fn no_two_threads_are_on_different_routes_and_all_get_through() {
        let routes = Routes::new();
        let on: Arc<[AtomicUsize; 2]> = Arc::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (routes, on) = (routes.clone(), on.clone());
                scope.spawn(move || {
                    for write in 0..2000 {
                        let route = [Route::Direct, Route::Cached][(thread + write) % 2];
                        let permit = routes.wait(route);
                        on[route as usize].fetch_add(1, Ordering::SeqCst);
                        assert_eq!(on[1 - route as usize].load(Ordering::SeqCst), 0);
                        on[route as usize].fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(routes.word.load(Ordering::SeqCst) & !CACHED, 0);
    }
}
