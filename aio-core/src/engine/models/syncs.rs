//! Proved: a sync runs once the writes before it have ended, and without those after it; of syncs that run at the
//! same time, none is Ok because the kernel reported the loss to another one; and each ends.
//!
//! The kernel reports all that was lost before to one caller. A sync that is asked for while two writes end; two
//! syncs; a sync beside two writes that end with one; and a sync beside what begins to write out.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use nix::errno::Errno;

use super::explore;
use crate::file::write_back::{Sync, WriteBack};

/// One descriptor of a file that has lost data.
#[derive(Debug)]
struct Lossy {
    write_back: WriteBack,
    unreported: AtomicBool,
}

impl Lossy {
    fn new() -> Arc<Self> {
        Arc::new(Self { write_back: WriteBack::default(), unreported: AtomicBool::new(true) })
    }

    /// What the kernel reports to the sync that asks.
    fn ask(&self) -> nix::Result<()> {
        if self.unreported.swap(false, Ordering::AcqRel) { Err(Errno::EIO) } else { Ok(()) }
    }

    fn sync(&self, what: Sync) -> bool {
        self.write_back.sync_by(0, what, || self.ask()).is_ok()
    }

    /// As a stream does.
    fn write_out(&self) {
        self.write_back.unless_syncing(|| Ok(self.ask()?));
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
fn a_sync_is_not_ok_if_a_write_out_reports_a_loss() {
    explore("syncs: one beside a write-out", None, || {
        let file = Lossy::new();
        let other = thread::spawn({
            let file = file.clone();
            move || file.write_out()
        });
        assert!(!file.sync(Sync::Data));
        other.join().unwrap();
        assert!(!file.sync(Sync::Data));
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

#[test]
fn a_sync_runs_once_after_the_writes_before_it() {
    explore("syncs: one after two writes", None, || {
        let file = Arc::new(WriteBack::default());
        let (ended, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let before = [file.begin_write(), file.begin_write()].map(|write| {
            let (file, ended) = (file.clone(), ended.clone());
            thread::spawn(move || {
                ended.fetch_add(1, Ordering::Relaxed);
                file.end_write(write);
            })
        });
        file.after_writes({
            let (ended, ran) = (ended.clone(), ran.clone());
            move || {
                assert_eq!(ended.load(Ordering::Relaxed), 2, "it ran before a write had ended");
                ran.fetch_add(1, Ordering::Relaxed);
            }
        });
        let after = file.begin_write();
        for write in before {
            write.join().unwrap();
        }
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        file.end_write(after);
    });
}
