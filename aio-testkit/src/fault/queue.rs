//! A queue around a real one.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aio_core::backend::parts::ProcessGeneration;
use aio_core::backend::{Completion, FileId, IoBlock, IoQueue, Region, RegionId, Wake};
use aio_core::op::Direction;

use super::{Fate, Gate, Rules};

/// Something that comes after so many reaps.
struct Late<T> {
    reaps: u32,
    what: T,
}

pub(super) struct FaultQueue<R> {
    id: usize,
    inner: Box<dyn IoQueue>,
    rules: Arc<R>,
    gate: Arc<Gate>,
    waker: Arc<dyn Wake>,
    made_in: ProcessGeneration,
    /// Accepted, and kept from the real queue.
    kept: Vec<Late<IoBlock>>,
    /// Completed, and not reported.
    held: Vec<Late<Completion>>,
    /// Of the blocks in flight, each with the reaps that its completion is held back for, and the region that it names.
    tokens: HashMap<u64, (u32, Option<RegionId>)>,
    /// What the real queue has registered.
    regions: HashSet<RegionId>,
}

impl<R: Rules> FaultQueue<R> {
    pub(super) fn new(
        id: usize,
        inner: Box<dyn IoQueue>,
        rules: Arc<R>,
        gate: Arc<Gate>,
        waker: Arc<dyn Wake>,
    ) -> Self {
        Self {
            id,
            inner,
            rules,
            gate,
            waker,
            made_in: ProcessGeneration::now(),
            kept: Vec::new(),
            held: Vec::new(),
            tokens: HashMap::new(),
            regions: HashSet::new(),
        }
    }

    /// Passes on what was kept back and is due, as much as there is room for.
    fn let_through(&mut self) -> io::Result<()> {
        if self.gate.is_closed() {
            return Ok(());
        }
        let mut due: Vec<_> = self.kept.extract_if(.., |late| late.reaps == 0).map(|late| late.what).collect();
        let passed = loop {
            if due.is_empty() {
                break Ok(());
            }
            // SAFETY: `submit` accepted these blocks, so their memory is valid until their completion is reported, which
            // `reap` does only of tokens that it has taken out of `tokens`, after the real queue had reported them; or
            // until `drain` has returned 0, which asks the real queue.
            match unsafe { self.inner.submit(&due) } {
                Ok(0) => break Ok(()),
                Ok(accepted) => {
                    due.drain(..accepted);
                    self.gate.gives(accepted);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.kept.splice(..0, due.into_iter().map(|what| Late { reaps: 0, what }));
        passed
    }

    /// Appends what is due.
    fn report(&mut self, done: &mut Vec<Completion>) {
        done.extend(self.held.extract_if(.., |late| late.reaps == 0).map(|late| late.what));
    }

    /// [`IoQueue::reap`], as far as it is the same for all rules.
    fn collect(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let idle = self.in_flight() == 0;
        let wanted = done.len() + min.min(self.in_flight());
        age(&mut self.kept);
        age(&mut self.held);
        loop {
            self.let_through()?;
            self.report(done);
            let missing = wanted.saturating_sub(done.len());
            if missing > 0 && timeout != Some(Duration::ZERO) && self.inner.in_flight() == 0 && self.hasten() {
                continue;
            }
            let wait = match timeout {
                _ if missing == 0 && !idle => Some(Duration::ZERO),
                None => None,
                Some(timeout) => deadline
                    .map_or(Some(timeout), |deadline| Some(deadline.saturating_duration_since(Instant::now()))),
            };
            let asked = missing.min(self.inner.in_flight());
            let mut fresh = Vec::new();
            let reaped = self.inner.reap(asked, wait, &mut fresh);
            let came = fresh.len();
            for what in fresh {
                let reaps = self.tokens.get(&what.token).map_or(0, |(reaps, _)| *reaps);
                self.held.push(Late { reaps, what });
            }
            self.report(done);
            reaped?;
            // The timeout passed, the waker fired, or all that is in flight waits for the gate.
            let gave_up = came < asked || asked == 0;
            if gave_up || done.len() >= wanted || timeout == Some(Duration::ZERO) {
                return Ok(());
            }
        }
    }

    /// Nothing will come by itself: makes what is due next come now. False if there is nothing to hasten.
    fn hasten(&mut self) -> bool {
        let soonest = |reaps: Option<u32>| reaps.unwrap_or(u32::MAX);
        let held = self.held.iter().map(|late| late.reaps).min();
        let kept = self.kept.iter().map(|late| late.reaps).min().filter(|_| !self.gate.is_closed());
        if held.is_none() && kept.is_none() {
            return false;
        }
        if soonest(held) <= soonest(kept) {
            self.held.iter_mut().min_by_key(|late| late.reaps).into_iter().for_each(|late| late.reaps = 0);
        } else {
            self.kept.iter_mut().min_by_key(|late| late.reaps).into_iter().for_each(|late| late.reaps = 0);
        }
        true
    }
}

impl<R: Rules> IoQueue for FaultQueue<R> {
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.kept.len() + self.held.len()
    }

    unsafe fn submit(&mut self, blocks: &[IoBlock]) -> io::Result<usize> {
        if self.made_in.is_forked() {
            // SAFETY: the caller's contract is this one's.
            return unsafe { self.inner.submit(blocks) };
        }
        let (in_flight, capacity) = (self.in_flight(), self.capacity());
        if in_flight + blocks.len() > capacity {
            self.gate.offence(format!("{} blocks on top of {in_flight} of {capacity}", blocks.len()));
        }
        let takes = self.rules.submit(self.id, blocks.len(), in_flight)?.min(blocks.len()).min(capacity - in_flight);
        for block in &blocks[..takes] {
            let delay = self.rules.delay(self.id, block);
            if self.tokens.insert(block.token, (delay.after, block.region)).is_some() {
                self.gate.offence(format!("token {:#x} is in flight twice", block.token));
            }
            if block.region.is_some_and(|region| !self.regions.contains(&region)) {
                self.gate.offence(format!("a block names {:?}, which is not registered", block.region));
            }
            let ended = |result| Late { reaps: delay.after, what: Completion { token: block.token, result } };
            match self.rules.block(self.id, block) {
                Fate::End(result) => self.held.push(ended(result)),
                // SAFETY: the caller vouches for the memory.
                Fate::Cut(len) => self.held.push(ended(unsafe { through_cache(block, len) })),
                Fate::Transfer => {
                    self.kept.push(Late { reaps: delay.before, what: *block });
                    self.gate.keeps(1);
                }
            }
        }
        // The blocks are accepted, whatever the real queue says to the next ones; if it is broken, `reap` finds it so.
        let _ = self.let_through();
        Ok(takes)
    }

    fn reap(&mut self, min: usize, timeout: Option<Duration>, done: &mut Vec<Completion>) -> io::Result<()> {
        if self.made_in.is_forked() {
            return self.inner.reap(min, timeout, done);
        }
        self.rules.reap(self.id)?;
        let before = done.len();
        let collected = self.collect(min, timeout, done);
        let mut fresh = done.split_off(before);
        for completion in &fresh {
            if self.tokens.remove(&completion.token).is_none() {
                self.gate.offence(format!("token {:#x} was not in flight", completion.token));
            }
        }
        self.rules.reaped(self.id, &mut fresh);
        // The real queue has these, or will: a worker that believed otherwise would give their memory back.
        for lie in fresh.extract_if(.., |completion| self.tokens.contains_key(&completion.token)) {
            self.gate.offence(format!("token {:#x} was made up", lie.token));
        }
        done.append(&mut fresh);
        collected.and_then(|()| self.rules.reap(self.id))
    }

    fn drain(&mut self) -> usize {
        if !self.made_in.is_forked() {
            self.gate.gives(self.kept.len());
        }
        self.kept.clear();
        self.held.clear();
        self.tokens.clear();
        self.inner.drain()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn add_region(&mut self, region: &Region) -> io::Result<()> {
        self.inner.add_region(region)?;
        self.regions.insert(region.id());
        Ok(())
    }

    fn remove_region(&mut self, id: RegionId) -> io::Result<()> {
        if self.tokens.values().any(|(_, region)| *region == Some(id)) {
            self.gate.offence(format!("{id:?} was removed with blocks in flight"));
        }
        self.regions.remove(&id);
        self.inner.remove_region(id)
    }

    fn add_file(&mut self, id: FileId, fd: BorrowedFd<'_>) -> io::Result<()> {
        let added = self.inner.add_file(id, fd);
        if added.is_ok() {
            self.rules.registered(self.id, id, true);
        }
        added
    }

    fn remove_file(&mut self, id: FileId) -> io::Result<()> {
        self.rules.registered(self.id, id, false);
        self.inner.remove_file(id)
    }
}

impl<R> Drop for FaultQueue<R> {
    fn drop(&mut self) {
        if !self.kept.is_empty() && !self.made_in.is_forked() {
            self.gate.offence(format!("dropped with {} blocks in flight", self.kept.len()));
        }
    }
}

/// Another reap has come.
fn age<T>(late: &mut [Late<T>]) {
    late.iter_mut().for_each(|late| late.reaps = late.reaps.saturating_sub(1));
}

/// The waker of a queue.
pub(super) struct Woken<R> {
    pub(super) id: usize,
    pub(super) inner: Arc<dyn Wake>,
    pub(super) rules: Arc<R>,
}

impl<R: Rules> Wake for Woken<R> {
    fn wake(&self) {
        self.rules.woken(self.id);
        self.inner.wake();
    }
}

/// Transfers the first `len` bytes of a block, whatever alignment its descriptor would ask for.
///
/// # Safety
///
/// The memory of the block is valid for the call.
pub(super) unsafe fn through_cache(block: &IoBlock, len: usize) -> io::Result<usize> {
    let len = len.min(block.len);
    let file = reopen(block.fd, block.direction)?;
    match block.direction {
        Direction::Read => {
            // SAFETY: `len` is at most the block's, whose memory is valid for writes, and no other code uses it
            // meanwhile.
            file.read_at(unsafe { std::slice::from_raw_parts_mut(block.ptr, len) }, block.offset)
        }
        Direction::Write => {
            // SAFETY: `len` is at most the block's, whose memory is valid for reads.
            file.write_at(unsafe { std::slice::from_raw_parts(block.ptr, len) }, block.offset)
        }
    }
}

fn reopen(fd: RawFd, direction: Direction) -> io::Result<std::fs::File> {
    let write = direction == Direction::Write;
    OpenOptions::new().read(!write).write(write).open(format!("/proc/self/fd/{fd}"))
}
