//! A status line on stderr, if that is a terminal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::drive::{Limit, Plan};
use aio_cli::output::Bar;
use aio_cli::size;

/// How often the line changes.
const INTERVAL: Duration = Duration::from_millis(500);

/// Counts for the line; they cost one relaxed store per op.
#[derive(Debug)]
pub(crate) struct Counter {
    blocks: u64,
    shown: Arc<AtomicU64>,
}

impl Counter {
    #[inline]
    pub(crate) fn add(&mut self, blocks: usize) {
        self.blocks += blocks as u64;
        self.shown.store(self.blocks, Ordering::Relaxed);
    }
}

/// The status line; drop erases it.
#[derive(Debug)]
pub(crate) struct Live {
    /// Carries no messages: dropping it ends the thread.
    going_on: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Starts to draw, with `what` in front, if stderr is a terminal. If no thread can start, the job runs without the
    /// line.
    pub(crate) fn start(what: &'static str, plan: &Plan, block_size: u64) -> Option<(Self, Counter)> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let shown = Arc::new(AtomicU64::new(0));
        let line = Line { what, blocks: Arc::clone(&shown), block_size, plan: *plan, started: Instant::now() };
        let (going_on, ended) = mpsc::channel();
        let draw = move || {
            let bar = Bar::new(0, "{wide_msg}");
            let mut last = Seen { blocks: 0, at: line.started };
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = line.look();
                bar.set_message(line.text(&last, &now));
                bar.tick();
                last = now;
            }
        };
        let thread = thread::Builder::new().name("live".to_owned()).spawn(draw).ok()?;
        Some((Self { going_on: Some(going_on), thread: Some(thread) }, Counter { blocks: 0, shown }))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.going_on.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!("the line on the terminal ended early");
        }
    }
}

/// The content of the line.
struct Line {
    what: &'static str,
    blocks: Arc<AtomicU64>,
    block_size: u64,
    plan: Plan,
    started: Instant,
}

struct Seen {
    blocks: u64,
    at: Instant,
}

impl Line {
    fn look(&self) -> Seen {
        Seen { blocks: self.blocks.load(Ordering::Relaxed), at: Instant::now() }
    }

    /// Rates since `last`, and the progress: in time if time is the limit, else in bytes.
    fn text(&self, last: &Seen, now: &Seen) -> String {
        let seconds = (now.at - last.at).as_secs_f64().max(1e-9);
        let iops = (now.blocks - last.blocks) as f64 / seconds;
        let gb_per_s = iops * self.block_size as f64 / 1e9;
        let (elapsed, ramp) = (now.at - self.started, self.plan.ramp.unwrap_or_default());
        let rates = format!("{}{gb_per_s:.3} GB/s, {iops:.0} I/Os per second", self.what);
        if elapsed < ramp {
            return format!("{rates}, ramp {:.1} of {:.1} s", elapsed.as_secs_f64(), ramp.as_secs_f64());
        }
        let timed = (elapsed - ramp).as_secs_f64();
        match self.plan.limit {
            Limit::Time(time) => format!("{rates}, {timed:.1} of {:.1} s", time.as_secs_f64()),
            // The count includes the ramp, so it does not tell how much is left.
            Limit::Blocks(_) if self.plan.ramp.is_some() => format!("{rates}, {timed:.1} s"),
            Limit::Blocks(blocks) => {
                let [done, all] = [now.blocks, blocks].map(|blocks| size::show(blocks * self.block_size));
                format!("{rates}, {timed:.1} s, {done} of {all}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_of_the_last_interval() {
        let started = Instant::now();
        let line = |ramp: Option<u64>, limit| Line {
            what: "",
            blocks: Arc::default(),
            block_size: 1 << 20,
            plan: Plan { ramp: ramp.map(Duration::from_secs), limit, per_op: 1 },
            started,
        };
        let at = |seconds, blocks| Seen { blocks, at: started + Duration::from_secs(seconds) };
        let timed = line(Some(2), Limit::Time(Duration::from_secs(5)));
        assert_eq!(timed.text(&at(0, 0), &at(1, 1000)), "1.049 GB/s, 1000 I/Os per second, ramp 1.0 of 2.0 s");
        assert_eq!(timed.text(&at(3, 1000), &at(4, 1500)), "0.524 GB/s, 500 I/Os per second, 2.0 of 5.0 s");
        let all = line(None, Limit::Blocks(4096));
        assert_eq!(
            all.text(&at(1, 1024), &at(3, 2048)),
            "0.537 GB/s, 512 I/Os per second, 3.0 s, 2.0 GiB of 4.0 GiB"
        );
    }
}
