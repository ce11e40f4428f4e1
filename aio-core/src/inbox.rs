//! Where each worker is reached: what other threads ask of it, and its waker.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::backend::{FileId, Wake};
use crate::foreign::{catch, report};
use crate::memory::GiveBack;
use crate::sync::{AtomicBool, Mutex, Ordering, ThreadSync, lock};

/// Where one worker is reached.
#[derive(Default)]
pub(crate) struct Port {
    waker: OnceLock<Arc<dyn Wake>>,
    mail: Mutex<Mail>,
    has_mail: AtomicBool,
}

#[derive(Default)]
struct Mail {
    /// The worker is gone, and its queue with it.
    closed: bool,
    letters: Vec<Letter>,
}

/// What a worker is asked for. It reads its mail between turns, when it has no op in hand that has ended.
#[derive(Debug)]
pub(crate) enum Letter {
    /// To give back a file's slot.
    Remove(FileId),
    /// To give back what the arena needs, and then to drop this.
    GiveBack(Arc<GiveBack>),
    /// To say that it came round.
    Answer(Arc<Round>),
}

/// Workers that have yet to answer.
#[derive(Debug)]
pub(crate) struct Round(ThreadSync<usize>);

impl Round {
    pub(crate) fn answer(&self) {
        *self.0.lock() -= 1;
        self.0.notify_all();
    }
}

/// Waits until every worker has come round. A worker that shared an op may hold it for a moment after another has ended
/// it; what it held when this began, it has let go of when this returns. Not for workers.
pub(crate) fn come_round(ports: &[Port]) {
    let round = Arc::new(Round(ThreadSync::new(ports.len())));
    for port in ports {
        if !port.post(Letter::Answer(round.clone())) {
            round.answer();
        }
    }
    drop(round.0.wait_until(round.0.lock(), None, |left| *left == 0));
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("has_mail", &self.has_mail).finish_non_exhaustive()
    }
}

impl Port {
    /// The worker's queue is open.
    pub(crate) fn set_waker(&self, waker: Arc<dyn Wake>) {
        let _ = self.waker.set(waker);
    }

    /// Makes the worker look around.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            report(catch("wake", || waker.wake()));
        }
    }

    /// Whether [`take_mail`](Self::take_mail) would find something.
    pub(crate) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// What came since the last time.
    pub(crate) fn take_mail(&self) -> Vec<Letter> {
        let mut mail = lock(&self.mail);
        self.has_mail.store(false, Ordering::Release);
        std::mem::take(&mut mail.letters)
    }

    /// The worker stops, and holds neither files nor ops any more; what is in the mail is as good as done.
    pub(crate) fn close(&self) -> Vec<Letter> {
        let mut mail = lock(&self.mail);
        mail.closed = true;
        std::mem::take(&mut mail.letters)
    }

    /// False if the worker is gone.
    pub(crate) fn post(&self, letter: Letter) -> bool {
        {
            let mut mail = lock(&self.mail);
            if mail.closed {
                return false;
            }
            mail.letters.push(letter);
            self.has_mail.store(true, Ordering::Release);
        }
        self.wake();
        true
    }
}
