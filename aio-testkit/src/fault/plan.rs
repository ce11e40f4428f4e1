//! Faults by chance, from a seed.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aio_core::backend::IoBlock;
use aio_core::op::Direction;

use super::{Delay, Fate, Rules, lock};

/// How often which fault happens. Chances are per thousand, of blocks or of calls; 0 is never.
///
/// All but [`bad_pages`](Self::bad_pages) and [`deaths`](Self::deaths) are faults that the engine has to get over: an op
/// ends as if they had not happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Blocks of which only a part is transferred.
    pub short: u32,
    /// Blocks that meet a storm of EINTR, EAGAIN or EBUSY: up to 24 of them, one after the other.
    pub storms: u32,
    /// Blocks that are transferred late, or whose completion is reported late: up to 8 reaps, and so out of order.
    pub delays: u32,
    /// Submissions that are refused as a whole with EAGAIN or EBUSY while blocks are in flight.
    pub refused_submits: u32,
    /// Submissions of which only a part is accepted.
    pub partial_submits: u32,
    /// Reaps that take up to half a millisecond longer.
    pub slow_reaps: u32,
    /// Pages, 4 KiB from a file offset that is a multiple of it, that cannot be read: EIO. As many others cannot be
    /// written: EIO, ENOSPC or EFBIG. They are the same ones for all files and all time.
    pub bad_pages: u32,
    /// Queues that break for good, each after it has accepted so many blocks: (number of the queue, blocks).
    pub deaths: Vec<(usize, u64)>,
}

impl Faults {
    /// Every fault that an op survives, often.
    pub fn survivable() -> Self {
        Self {
            short: 150,
            storms: 100,
            delays: 300,
            refused_submits: 200,
            partial_submits: 300,
            slow_reaps: 20,
            ..Self::default()
        }
    }
}

/// How many faults of each kind were injected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// Short transfers.
    pub short: u64,
    /// EINTR, EAGAIN and EBUSY, each time.
    pub again: u64,
    /// Blocks that were late.
    pub delayed: u64,
    /// Submissions refused.
    pub refused_submits: u64,
    /// Submissions accepted in part.
    pub partial_submits: u64,
    /// Slow reaps.
    pub slow_reaps: u64,
    /// Blocks that met a bad page.
    pub bad_pages: u64,
    /// Queues that broke.
    pub deaths: u64,
}

impl Injected {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { short, again, delayed, refused_submits, partial_submits, slow_reaps, bad_pages, deaths } = *self;
        short + again + delayed + refused_submits + partial_submits + slow_reaps + bad_pages + deaths
    }
}

const PAGE: u64 = 4096;
const LONGEST_STORM: u64 = 24;
const LONGEST_DELAY: u64 = 8;
const SLOWEST_REAP: u64 = 500;
const PERMILLE: u64 = 1000;

/// [`Rules`] that inject [`Faults`] by chance. Which pages are bad follows from the seed alone; the rest follows from
/// the seed and the order in which blocks come.
#[derive(Debug)]
pub struct Plan {
    seed: u64,
    faults: Faults,
    drawn: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    injected: Injected,
    /// Blocks in a storm, by queue, direction and offset: the error, and how many times it comes yet.
    storms: HashMap<(usize, Direction, u64), (i32, u64)>,
    /// How many blocks each queue has accepted.
    accepted: HashMap<usize, u64>,
    broken: Vec<usize>,
}

impl Plan {
    /// The plan that follows from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, faults, drawn: AtomicU64::new(0), state: Mutex::default() }
    }

    /// What was injected so far.
    pub fn injected(&self) -> Injected {
        self.with(|state| state.injected)
    }

    /// The errors that a transfer of these bytes of any file may fail with because of its bad pages. Empty: it does
    /// not fail.
    pub fn errors(&self, direction: Direction, offset: u64, len: u64) -> Vec<i32> {
        if len == 0 {
            return Vec::new();
        }
        let pages = offset / PAGE..=(offset + len - 1) / PAGE;
        pages.filter_map(|page| self.error(direction, page)).collect()
    }

    fn error(&self, direction: Direction, page: u64) -> Option<i32> {
        let random = mix(self.seed ^ mix(page << 1 | u64::from(direction == Direction::Write)));
        let bad = random % PERMILLE < u64::from(self.faults.bad_pages);
        bad.then(|| match direction {
            Direction::Read => libc::EIO,
            Direction::Write => [libc::EIO, libc::ENOSPC, libc::EFBIG][(random >> 32) as usize % 3],
        })
    }

    fn bad(&self, block: &IoBlock) -> Option<i32> {
        let errno = self.errors(block.direction, block.offset, block.len as u64).first().copied()?;
        self.with(|state| state.injected.bad_pages += 1);
        Some(errno)
    }

    fn random(&self) -> u64 {
        mix(self.seed.wrapping_add(mix(self.drawn.fetch_add(1, Ordering::Relaxed))))
    }

    fn chance(&self, permille: u32) -> bool {
        permille > 0 && self.random() % PERMILLE < u64::from(permille)
    }

    /// Which of EINTR, EAGAIN and EBUSY comes to this block now.
    fn storm(&self, queue: usize, block: &IoBlock) -> Option<i32> {
        let key = (queue, block.direction, block.offset);
        let going_on = self.with(|state| {
            let (errno, left) = state.storms.get_mut(&key)?;
            *left = left.checked_sub(1)?;
            Some(*errno)
        });
        if going_on.is_some() {
            return going_on;
        }
        // None begins where one has just ended: storms have an end.
        let ended = self.with(|state| state.storms.remove(&key)).is_some();
        if ended || !self.chance(self.faults.storms) {
            return None;
        }
        let errno = [libc::EINTR, libc::EAGAIN, libc::EBUSY][self.random() as usize % 3];
        let left = self.random() % LONGEST_STORM;
        self.with(|state| state.storms.insert(key, (errno, left)));
        Some(errno)
    }

    /// What becomes of a block that no storm keeps away.
    fn lasting(&self, block: &IoBlock) -> Fate {
        if let Some(errno) = self.bad(block) {
            return Fate::End(Err(io::Error::from_raw_os_error(errno)));
        }
        match self.cut(block) {
            Some(len) => {
                self.with(|state| state.injected.short += 1);
                Fate::Cut(len)
            }
            None => Fate::Transfer,
        }
    }

    fn cut(&self, block: &IoBlock) -> Option<usize> {
        if block.len < 2 || !self.chance(self.faults.short) {
            return None;
        }
        Some(1 + self.random() as usize % (block.len - 1))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }
}

impl Rules for Plan {
    fn submit(&self, queue: usize, offered: usize, in_flight: usize) -> io::Result<usize> {
        self.reap(queue)?;
        if in_flight > 0 && self.chance(self.faults.refused_submits) {
            self.with(|state| state.injected.refused_submits += 1);
            let errno = if self.random().is_multiple_of(2) { libc::EAGAIN } else { libc::EBUSY };
            return Err(io::Error::from_raw_os_error(errno));
        }
        if offered > 1 && self.chance(self.faults.partial_submits) {
            self.with(|state| state.injected.partial_submits += 1);
            return Ok(1 + self.random() as usize % (offered - 1));
        }
        Ok(offered)
    }

    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        let death = self.faults.deaths.iter().find(|(dies, _)| *dies == queue);
        self.with(|state| {
            let accepted = state.accepted.entry(queue).or_default();
            *accepted += 1;
            if death.is_some_and(|(_, blocks)| *blocks == *accepted) {
                state.injected.deaths += 1;
                state.broken.push(queue);
            }
        });
        if let Some(errno) = self.storm(queue, block) {
            self.with(|state| state.injected.again += 1);
            return Fate::End(Err(io::Error::from_raw_os_error(errno)));
        }
        self.lasting(block)
    }

    fn delay(&self, _queue: usize, _block: &IoBlock) -> Delay {
        if !self.chance(self.faults.delays) {
            return Delay::default();
        }
        self.with(|state| state.injected.delayed += 1);
        let reaps = 1 + (self.random() % LONGEST_DELAY) as u32;
        if self.random().is_multiple_of(2) {
            Delay { before: reaps, after: 0 }
        } else {
            Delay { before: 0, after: reaps }
        }
    }

    fn reap(&self, queue: usize) -> io::Result<()> {
        if self.with(|state| state.broken.contains(&queue)) {
            return Err(io::Error::other("a queue that the plan broke"));
        }
        if self.chance(self.faults.slow_reaps) {
            self.with(|state| state.injected.slow_reaps += 1);
            std::thread::sleep(Duration::from_micros(self.random() % SLOWEST_REAP));
        }
        Ok(())
    }

    fn transfer(&self, block: &IoBlock) -> Fate {
        if self.chance(self.faults.storms) {
            self.with(|state| state.injected.again += 1);
            return Fate::End(Err(io::Error::from_raw_os_error(libc::EINTR)));
        }
        self.lasting(block)
    }

    fn at_once(&self, block: &IoBlock) -> Fate {
        // As often as not, the page cache does not hold it.
        if self.chance(PERMILLE as u32 / 2) {
            self.lasting(block)
        } else {
            Fate::End(Err(io::ErrorKind::WouldBlock.into()))
        }
    }
}

/// The finaliser of SplitMix64: neighbouring numbers become unrelated ones.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
