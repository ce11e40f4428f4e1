//! Proved: of syncs that run at the same time, none is Ok because the kernel reported the loss to another one; and each ends.
//!
//! The kernel reports all that was lost before to one caller. Two syncs; and a sync beside two writes that end with one.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use nix::errno::Errno;

use super::explore;
use crate::file::write_back::{Faults, Sync};

/// One descriptor of a file that has lost data.
#[derive(Debug)]
struct Lossy {
    faults: Faults,
    unreported: AtomicBool,
}

impl Lossy {
    fn new() -> Arc<Self> {
        Arc::new(Self { faults: Faults::default(), unreported: AtomicBool::new(true) })
    }

    /// What the kernel reports to the sync that asks.
    fn ask(&self) -> nix::Result<()> {
        if self.unreported.swap(false, Ordering::AcqRel) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn sync(&self, what: Sync) -> bool {
        self.faults.sync_by(0, what, || self.ask()).is_ok()
    }

    /// As a durable write does whose bytes get lost.
    fn write_durably(&self) -> bool {
        self.unreported.store(true, Ordering::Release);
        self.sync(Sync::Data)
    }
}

#[test]
fn of_two_syncs_neither_is_ok_if_one_reports_a_loss() {
    explore("syncs: two", None, || {
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
fn syncs_and_durable_writes_all_report_a_loss() {
    explore("syncs: one beside two durable writes", 3, || {
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
