//! Random operations for a long time, with every byte verified.

mod cells;
mod counts;
mod expected;
mod lane;
mod ledger;
mod live;
mod report;
mod stint;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use aio::Backend;
use aio_testkit::leftovers::Leftovers;

use crate::cli::SoakArgs;
use crate::failure::{Failure, no_thread};
use crate::host::disk;
use crate::interrupt::{self, Made};
use crate::output;
use counts::Counts;
use lane::Lane;
use live::Live;
use report::Report;

/// Soaks, prints the result, and fails if anything was wrong.
///
/// When a signal ends it early, it prints what happened until then, marked as partial.
pub(crate) fn soak(args: &SoakArgs) -> Result<(), Failure> {
    let dir = disk::require_folder(&args.dir)?;
    disk::require_room(&dir, std::iter::once(args.size))?;
    let backends = backends(args)?;
    let seed = args.seed.unwrap_or_else(from_clock);
    let made = Made::folder_in(&dir)?;

    let share = args.size / backends.len() as u64;
    let lanes = backends.iter().map(|backend| {
        let mut lane = Lane::new(*backend, made.path(), share, seed, args.faults)?;
        // After this, the process holds everything that it keeps for good.
        lane.warm_up()?;
        Ok((lane, Arc::new(Counts::default())))
    });
    let lanes = lanes.collect::<Result<Vec<_>, Failure>>()?;
    let before = Leftovers::now();
    let clock = Instant::now();
    let counts: Vec<_> = lanes.iter().map(|(_, counts)| Arc::clone(counts)).collect();
    let live = Live::new(clock, args.runtime);
    let refused = AtomicBool::new(false);
    let ended = thread::scope(|scope| {
        let until =
            || clock.elapsed() >= args.runtime || refused.load(Ordering::Relaxed) || interrupt::check().is_err();
        let start = |(lane, counts): (Lane, Arc<Counts>)| {
            let thread = thread::Builder::new().name(lane.name.to_owned());
            thread.spawn_scoped(scope, move || lane.run(&counts, &until)).map_err(no_thread)
        };
        let lanes: Result<Vec<_>, Failure> = lanes.into_iter().map(start).collect();
        // If one lane cannot start, the others end at once.
        refused.store(lanes.is_err(), Ordering::Relaxed);
        let lanes = lanes?;
        live.watch(&counts, || lanes.iter().all(thread::ScopedJoinHandle::is_finished));
        Ok::<_, Failure>(lanes.into_iter().map(|lane| lane.join()).collect::<Vec<_>>())
    })?;
    drop(live);
    let ended = ended.into_iter().map(|ended| {
        ended.map_err(|panic| {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Failure::Failed(format!("a thread of the soak panicked: {message}"))
        })
    });
    let lanes = ended.collect::<Result<Vec<_>, Failure>>()?;
    let interrupted = interrupt::check();
    let report = Report::new(args, seed, clock.elapsed(), lanes, before.check().err(), interrupted.is_err());
    output::result(&report, args.json)?;
    match report.verdict() {
        Some(sentence) => Err(Failure::Failed(sentence)),
        None => interrupted,
    }
}

/// The backends that the user named, or all that work here.
fn backends(args: &SoakArgs) -> Result<Vec<Backend>, Failure> {
    if args.backends.is_empty() {
        let works = |backend: &Backend| backend.probe().is_ok();
        let backends: Vec<_> = Backend::COMPILED.iter().copied().filter(works).collect();
        return match backends.is_empty() {
            true => Err(Failure::Failed("no backend works here: see `tensor-aio probe`".to_owned())),
            false => Ok(backends),
        };
    }
    let mut backends: Vec<Backend> = Vec::new();
    for backend in &args.backends {
        if backends.contains(backend) {
            return Err(Failure::Usage(format!("--backend {backend} is given twice")));
        }
        backend.probe().map_err(|unavailable| Failure::Failed(unavailable.to_string()))?;
        backends.push(*backend);
    }
    Ok(backends)
}

fn from_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
