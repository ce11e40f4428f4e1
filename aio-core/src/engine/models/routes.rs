//! Proved: permits for the two routes of an inode are never held at the same time, and whatever waits for one gets it.
//!
//! Three threads that each take one permit, in every mix of routes; and two that take two each, one of each route.

use std::sync::Arc;

use loom::thread;

use super::explore;
use crate::file::routes::{Route, RoutePermit, Routes};
use crate::sync::{AtomicUsize, Ordering};

/// Counts the permits that are held, and those that were.
#[derive(Debug, Default)]
struct Out {
    by_route: [AtomicUsize; 2],
    ever: AtomicUsize,
}

/// Takes a permit, now or later, and has it for a moment.
fn take(routes: &Arc<Routes>, out: &Arc<Out>, route: Route) {
    let hold = move |out: Arc<Out>, permit: RoutePermit| {
        out.by_route[route as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(out.by_route[1 - route as usize].load(Ordering::Relaxed), 0, "both routes are taken");
        out.by_route[route as usize].fetch_sub(1, Ordering::Relaxed);
        out.ever.fetch_add(1, Ordering::Relaxed);
        drop(permit);
    };
    if let Some((out, permit)) = routes.enter(route, None, out.clone(), hold) {
        hold(out, permit);
    }
}

fn threads_take(name: &str, preemptions: usize, routes_of: &'static [&'static [Route]]) {
    explore(&format!("routes: {name}"), preemptions, move || {
        let (routes, out) = (Routes::new(), Arc::new(Out::default()));
        let threads: Vec<_> = routes_of[1..]
            .iter()
            .map(|wanted| {
                let (routes, out) = (routes.clone(), out.clone());
                thread::spawn(move || wanted.iter().for_each(|route| take(&routes, &out, *route)))
            })
            .collect();
        routes_of[0].iter().for_each(|route| take(&routes, &out, *route));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(out.ever.load(Ordering::Relaxed), routes_of.concat().len(), "a permit was not given");
        assert!(routes.try_enter(Route::Direct).is_ok() && routes.try_enter(Route::Cached).is_ok());
    });
}

#[test]
fn one_route_is_open_at_a_time_and_all_get_through() {
    const D: Route = Route::Direct;
    const C: Route = Route::Cached;
    threads_take("two on one, one on the other", 3, &[&[D], &[D], &[C]]);
    threads_take("two threads, each on both", 4, &[&[D, C], &[C, D]]);
}
