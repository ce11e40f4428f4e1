//! What an op queue knows of its copiers: how many there are, how many sleep, and what they hold.

use smallvec::SmallVec;

use super::queued_op::QueuedOp;
use crate::engine::in_flight::Run;
use crate::engine::transfer::Transfer;
use crate::epochs::Epochs;

/// How many copiers make files at once. The kernel makes one at a time in a folder while others write to theirs; on 16
/// CPUs four made as many as any number of plain threads, and 16 fewer.
const MAKERS: usize = 4;

/// The copiers of an op queue, which are started as they are needed.
#[derive(Debug)]
pub(super) struct Copiers {
    /// How many there may be: as configured, or those that could be started.
    most: usize,
    started: usize,
    asleep: usize,
    /// Of those asleep, how many were woken and did not run yet.
    woken: usize,
    /// One of those asleep looks soon what there is to do, woken or not.
    is_watched: bool,
    /// Since a copier last went to sleep, a thread that waited for its op took it back.
    taken_back: bool,
    /// Each copier enters with a claim, and leaves with the next.
    pub(super) claims: Epochs,
    /// The inodes that copiers write to. The kernel lets one thread at a time write to an inode through the page cache,
    /// and others would spin until it is their turn.
    written: SmallVec<[usize; 4]>,
    /// How many make a file.
    makes_files: usize,
    /// How many prepare an op.
    preparing: usize,
    /// How many copy for background ops.
    background: usize,
    /// How many threads wait for copiers to let go.
    pub(super) waiting: usize,
}

/// What a copier holds from one claim to the next.
#[derive(Debug)]
pub(crate) struct Holding {
    epoch: u64,
    /// Until it has copied.
    written: SmallVec<[usize; 1]>,
    makes_files: bool,
    prepares: bool,
    is_background: bool,
}

impl Holding {
    /// Whether copies wait for what it holds.
    pub(super) fn excludes_others(&self) -> bool {
        self.is_background || self.prepares || !self.written.is_empty()
    }
}

/// How one more copier comes to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Another {
    /// There is nothing to do for it, or there are no more.
    None,
    /// One that sleeps is to be notified.
    Sleeping,
    /// One is to be started.
    New,
}

impl Copiers {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            started: 0,
            asleep: 0,
            woken: 0,
            is_watched: false,
            taken_back: false,
            claims: Epochs::default(),
            written: SmallVec::new(),
            makes_files: 0,
            preparing: 0,
            background: 0,
            waiting: 0,
        }
    }

    /// Whether there are copiers, or may be.
    pub(super) fn exist(&self) -> bool {
        self.most > 0
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether no more can be brought to work.
    pub(super) fn are_all_awake(&self) -> bool {
        self.asleep <= self.woken && self.started == self.most
    }

    /// What brings one more copier to work, if there is something for it; the caller sees to it.
    pub(super) fn another(&mut self, has_work: impl FnOnce(&Self) -> bool) -> Another {
        if self.are_all_awake() {
            return Another::None;
        }
        if !has_work(self) {
            return Another::None;
        }
        if self.asleep > self.woken {
            self.woken += 1;
            return Another::Sleeping;
        }
        self.started += 1;
        Another::New
    }

    /// Whether no copier writes to the inode of this op, and for one in the background, whether a copier is left for
    /// others, and one that may make files.
    pub(super) fn may_claim(&self, queued: &QueuedOp) -> bool {
        let most = if self.most == 1 { 1 } else { self.most - (self.most / 4).max(1) };
        let leaves_one = || self.background < most && !(queued.makes_file() && self.makes_files + 1 >= MAKERS);
        (!queued.is_background() || leaves_one())
            && (self.written.is_empty() || queued.written_inode().is_none_or(|inode| !self.written.contains(&inode)))
    }

    /// Whether one more may make a file.
    pub(super) fn may_make_file(&self) -> bool {
        self.makes_files < MAKERS
    }

    /// Whether one prepares an op.
    pub(super) fn prepare(&self) -> bool {
        self.preparing > 0
    }

    /// A copier has claimed these runs, or an op to be prepared.
    pub(super) fn hold(&mut self, runs: &[Run], unprepared: Option<&Transfer>) -> Holding {
        let written: SmallVec<_> = runs.iter().filter_map(|run| run.op.state.written_inode()).collect();
        self.written.extend_from_slice(&written);
        let is_background =
            runs.iter().any(Run::is_background) || unprepared.is_some_and(|op| op.state.options.is_background());
        self.background += usize::from(is_background);
        let makes_files = unprepared.is_some_and(|op| op.state.makes_file());
        self.makes_files += usize::from(makes_files);
        let prepares = unprepared.is_some();
        self.preparing += usize::from(prepares);
        Holding { epoch: self.claims.enter(), written, makes_files, prepares, is_background }
    }

    /// The copier has copied them, so another one may write to the same inodes. It has the ops yet.
    pub(super) fn copied(&mut self, held: &mut Holding) {
        self.background -= usize::from(std::mem::take(&mut held.is_background));
        self.makes_files -= usize::from(std::mem::take(&mut held.makes_files));
        self.preparing -= usize::from(std::mem::take(&mut held.prepares));
        for inode in held.written.drain(..) {
            if let Some(index) = self.written.iter().position(|written| *written == inode) {
                self.written.swap_remove(index);
            }
        }
    }

    /// The copier has none of them any more.
    pub(super) fn let_go(&mut self, mut held: Holding) {
        self.copied(&mut held);
        self.claims.leave(held.epoch, 1);
    }

    /// A thread has taken back the op that it waits for.
    pub(super) fn taken_back(&mut self) {
        self.taken_back = true;
    }

    /// Whether a copier looks soon what there is to do.
    pub(super) fn are_watching(&self) -> bool {
        self.is_watched
    }

    /// A copier finds nothing to do. Says whether it is to look again soon: so it does as long as threads take back what
    /// they submit, and do not have to wake a copier that would find nothing.
    pub(super) fn sleep(&mut self) -> bool {
        self.asleep += 1;
        let watches = !self.is_watched && std::mem::take(&mut self.taken_back);
        self.is_watched |= watches;
        watches
    }

    /// The copier runs again, woken or not.
    pub(super) fn awake(&mut self, watched: bool) {
        self.asleep -= 1;
        self.woken = self.woken.saturating_sub(1);
        self.is_watched &= !watched;
    }

    /// The one that was to be started could not be, so no more are asked for.
    pub(super) fn not_started(&mut self) {
        self.started -= 1;
        self.most = self.started;
    }
}
