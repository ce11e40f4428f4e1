//! CPU time, and pinning to a CPU.

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::failure::Failure;

/// Wall-clock and CPU time of a stretch of work, including all threads and the kernel's work for them.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    cpu: Duration,
    wall: Instant,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { cpu: cpu_time(), wall: Instant::now() }
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.wall
    }

    /// Time since the start.
    pub fn stop(self) -> Elapsed {
        let wall = self.wall.elapsed();
        Elapsed { wall, cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

/// The times of a [`Stopwatch`].
#[derive(Debug, Default, Clone, Copy)]
pub struct Elapsed {
    /// Wall-clock time.
    pub wall: Duration,
    /// User and system time of the process.
    pub cpu: Duration,
}

impl std::ops::AddAssign for Elapsed {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// `getrusage(2)` with RUSAGE_SELF, which includes the kernel's io_uring workers; it cannot fail with these arguments.
fn cpu_time() -> Duration {
    let duration = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| duration(usage.user_time()) + duration(usage.system_time()))
}

/// Pins the calling thread, and every thread it starts later, to one CPU.
pub fn pin(cpu: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| Failure::Failed(format!("cannot run on CPU {cpu}: {}", errno.desc())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_counts_as_cpu_time() {
        let watch = Stopwatch::start();
        while cpu_time().saturating_sub(watch.cpu) < Duration::from_millis(5) {
            std::hint::black_box(0);
        }
        let elapsed = watch.stop();
        assert!(elapsed.cpu >= Duration::from_millis(5) && elapsed.wall >= Duration::from_millis(1), "{elapsed:?}");
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_named() {
        let error = pin(1 << 20).unwrap_err().to_string();
        assert!(error.contains("CPU 1048576"), "{error}");
    }
}
