//! Invariant 2: a queue gives back the memory and the files that it registered before they become another's.

use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use aio::{Backend, DirectMode};
use aio_core::backend::{FileId, IoBlock};
use aio_testkit::fault::{Fate, Plain, Rules};

use crate::BLOCK;
use crate::support::child::alone;
use crate::support::wakers::{holding, leave_waker};
use crate::support::{Folder, each_backend, gated, pattern, small, until};

/// Which queue knows which file in which slot.
#[derive(Debug, Default)]
struct Slots {
    known: Mutex<HashMap<(usize, u32), u32>>,
    queues: Mutex<HashSet<usize>>,
    offences: Mutex<Vec<String>>,
}

impl Rules for Slots {
    fn registered(&self, queue: usize, file: FileId, there: bool) {
        let mut known = self.known.lock().unwrap();
        if there {
            self.queues.lock().unwrap().insert(queue);
            // The slot was given to another file while a queue still had the one before.
            if let Some(before) = known.insert((queue, file.slot), file.generation) {
                self.offences.lock().unwrap().push(format!("{file:?} in queue {queue}, which has {before}"));
            }
            for ((other, slot), generation) in &*known {
                if *slot == file.slot && *generation != file.generation {
                    self.offences.lock().unwrap().push(format!("{file:?}, but queue {other} has {generation}"));
                }
            }
        } else if known.remove(&(queue, file.slot)) != Some(file.generation) {
            self.offences.lock().unwrap().push(format!("{file:?} removed from queue {queue}, which has it not"));
        }
    }

    fn block(&self, queue: usize, block: &IoBlock) -> Fate {
        if let Some(file) = block.file
            && self.known.lock().unwrap().get(&(queue, file.slot)) != Some(&file.generation)
        {
            self.offences.lock().unwrap().push(format!("a block names {file:?}, which queue {queue} has not"));
        }
        Fate::Transfer
    }
}

/// The descriptors of this process that are open on `path`.
fn descriptors(path: &std::path::Path) -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let on_path = entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == path));
    on_path.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// A lock on an open file lasts as long as anybody, a queue's table included, has this open file.
fn lock(fd: RawFd, kind: i32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::flock(fd, kind | libc::LOCK_NB) == 0 }
}

fn locked_by_others(path: &std::path::Path) -> bool {
    use std::os::fd::AsRawFd;
    !lock(std::fs::File::open(path).unwrap().as_raw_fd(), libc::LOCK_EX)
}

#[test]
fn a_closed_file_is_closed_in_every_queue() {
    // A child process that another test starts has every lock of this process until its `execve`.
    alone("registration::a_closed_file_is_closed_in_every_queue", || each_backend("closed in every queue", closes));
}

fn closes(backend: Backend, direct: DirectMode) {
    let rules = Arc::new(Slots::default());
    let (aio, gate) = gated(backend, &rules, small(3, 2, direct));
    let folder = Folder::new();
    for by_close in [true, false] {
        rules.queues.lock().unwrap().clear();
        let path = folder.file("t", &pattern(1, 1 << 20));
        let file = aio.open(&path).unwrap();
        assert!(descriptors(&path).into_iter().all(|fd| lock(fd, libc::LOCK_SH)));
        let registers = backend.probe().unwrap().registered_files;
        gate.close();
        // More than all queues hold, so that all workers come.
        let reads: Vec<_> = (0..2).map(|_| file.read(vec![0; 1 << 20], 0)).collect();
        gate.wait_for(3 * 2);
        gate.open();
        reads.into_iter().for_each(|read| drop(read.wait().unwrap()));
        assert_eq!(rules.queues.lock().unwrap().len(), if registers { 3 } else { 0 });
        assert!(locked_by_others(&path));
        if by_close {
            file.close().unwrap();
        } else {
            drop(file);
            // Workers give it back when they come to it.
            until(|| !locked_by_others(&path));
        }
        assert!(!locked_by_others(&path));
        assert!(descriptors(&path).is_empty());
    }
    assert_eq!(*rules.offences.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_file_is_closed_although_the_thread_that_synced_it_is_held_up() {
    each_backend("a waker that takes its time", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, BLOCK));
        let file = aio.open(&path).unwrap();
        let (waker, is_woken, go_on) = holding();
        gate.close();
        let write = file.write(vec![1; BLOCK], 0);
        let mut sync = file.sync_data();
        // The sync waits for the write, so the waker is there before its end.
        leave_waker(&mut sync, &waker);
        gate.open();
        write.wait().unwrap();
        is_woken.recv().unwrap();
        sync.wait().unwrap();
        file.close().unwrap();
        assert_eq!(descriptors(&path), Vec::<RawFd>::new());
        go_on.send(()).unwrap();
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn slots_are_used_again_only_when_every_queue_has_given_them_back() {
    each_backend("slots", |backend, direct| {
        let rules = Arc::new(Slots::default());
        let (aio, gate) = gated(backend, &rules, small(3, 2, direct));
        let folder = Folder::new();
        const LEN: usize = 3 * BLOCK;
        let paths: Vec<_> = (0..5).map(|i| folder.file(&i.to_string(), &pattern(i + 1, LEN))).collect();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (aio, paths) = (&aio, &paths);
                scope.spawn(move || {
                    for round in 0..60 {
                        let which = (thread + round * 7) % paths.len();
                        let file = aio.open(&paths[which]).unwrap();
                        let tickets: Vec<_> = (0..4).map(|_| file.read(vec![0; LEN], 0)).collect();
                        // With the tickets, or before them.
                        if round % 2 == 0 {
                            drop(file);
                        }
                        for ticket in tickets {
                            assert!(ticket.wait().unwrap() == pattern(which as u64 + 1, LEN), "of another file");
                        }
                    }
                });
            }
        });
        aio.close().unwrap();
        assert_eq!(*rules.offences.lock().unwrap(), Vec::<String>::new());
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn memory_that_queues_know_is_never_replaced_under_them() {
    each_backend("regions", |backend, direct| {
        let mut config = small(2, 4, direct);
        config.arena_limit = Some(48 << 20);
        let (aio, _) = gated(backend, &Arc::new(Plain), config);
        let folder = Folder::new();
        const LEN: usize = 8 << 20;
        let content = pattern(1, LEN);
        let file = aio.open(folder.file("t", &content)).unwrap();
        // Buffers of growing sizes fit into nothing that smaller ones left, so regions come and go.
        for len in [1, 5, 9, 18, 30, 40, 3, 47, 11].map(|mib: usize| mib << 20) {
            let mut buffer = aio.alloc(len).unwrap();
            buffer.fill(0xEE);
            buffer.truncate(LEN);
            let part = buffer.len();
            let buffer = file.read(buffer, 0).wait().unwrap();
            assert!(buffer[..] == content[..part], "{len} bytes");
        }
    });
}
