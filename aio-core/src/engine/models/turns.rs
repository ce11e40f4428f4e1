//! Proved: of those who ask at the same time whether data was lost, nobody says Ok because another one was told; and who
//! waits for a turn gets one.
//!
//! The kernel tells one caller of all that was lost before. Two syncs; and a sync beside two durable writes.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use nix::errno::Errno;

use super::explore;
use crate::file::faults::{Faults, Sync};

/// One descriptor of a file that has lost data.
#[derive(Debug)]
struct Lossy {
    faults: Faults,
    untold: AtomicBool,
}

impl Lossy {
    fn new() -> Arc<Self> {
        Arc::new(Self { faults: Faults::default(), untold: AtomicBool::new(true) })
    }

    /// What the kernel says to who asks.
    fn ask(&self) -> nix::Result<()> {
        if self.untold.swap(false, Ordering::AcqRel) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn sync(&self, what: Sync) -> bool {
        self.faults.sync_by(0, what, || self.ask()).is_ok()
    }

    /// As a write does whose block is durable if it may be, and gets lost.
    fn write_durably(&self) -> bool {
        let has_turn = self.faults.try_turn();
        self.untold.store(true, Ordering::Release);
        if !has_turn {
            return self.sync(Sync::Data);
        }
        let told = self.ask().map_err(std::io::Error::from);
        if let Err(error) = &told {
            self.faults.durable_block_failed(error);
        }
        self.faults.give_turn(None);
        told.is_ok()
    }
}

#[test]
fn of_two_syncs_neither_is_ok_if_one_was_told() {
    explore("turns: two syncs", None, || {
        let file = Lossy::new();
        let other = thread::spawn({
            let file = file.clone();
            move || file.sync(Sync::All)
        });
        assert!(!file.sync(Sync::Data));
        assert!(!other.join().unwrap());
    });
}

#[test]
fn syncs_and_durable_writes_are_all_told() {
    explore("turns: two durable writes and a sync", 3, || {
        let file = Lossy::new();
        let writes = [(); 2].map(|()| {
            let file = file.clone();
            thread::spawn(move || file.write_durably())
        });
        assert!(!file.sync(Sync::Data));
        for write in writes {
            assert!(!write.join().unwrap());
        }
    });
}
