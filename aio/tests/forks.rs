//! Invariant 8: a fork is survived. In the child every call fails with `Forked` and drops leave everything to the
//! parent, which goes on as if nothing had been.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use aio::Error;
use aio_testkit::fault::{Plain, Rules};
use support::child::forked;
use support::watched::Watched;
use support::{Folder, each_backend, gated, pattern, small, until_in_flight};

const BLOCK: usize = 16 << 10;

/// Notes who wakes queues.
#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Rules for Wakes {
    fn woken(&self, _queue: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_forked_child_is_told_and_disturbs_nobody() {
    each_backend("fork", |backend, direct| {
        let rules = Arc::new(Wakes::default());
        let (aio, gate) = gated(backend, &rules, small(2, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 64 * BLOCK);
        let path = folder.file("t", &content);
        for round in 0..5 {
            let file = aio.open(&path).unwrap();
            let (closing, forgotten) = (aio.open(&path).unwrap(), aio.open(&path).unwrap());
            let memory = Watched::new(8, 2 * BLOCK, round % 2);
            gate.close();
            let tickets: Vec<_> =
                memory.buffers().enumerate().map(|(i, buffer)| file.read(buffer, (i * 2 * BLOCK) as u64)).collect();
            let mut tickets: Vec<Option<_>> = tickets.into_iter().map(Some).collect();
            let arena = aio.alloc(BLOCK).unwrap();
            let sync = file.sync_data();
            gate.wait_for(8);
            until_in_flight(&aio);
            let mut closing = Some(closing);
            let mut forgotten = Some(forgotten);
            let mut all = Some((aio.clone(), file.clone(), arena, sync));
            let wrong = forked(|| {
                let forked = |error: &Error| matches!(error, Error::Forked);
                let wakes = rules.0.load(Ordering::SeqCst);
                let (aio, file, arena, sync) = all.take()?;
                let checks = [
                    aio.wait().is_err_and(|error| forked(&error)),
                    aio.open("/dev/null").is_err_and(|error| forked(&error)),
                    aio.alloc(1).is_err_and(|error| forked(&error)),
                    aio.try_alloc(1).is_err_and(|error| forked(&error)),
                    aio.scope(|_| ()).is_err_and(|error| forked(&error)),
                    aio.clone().close().is_err_and(|error| forked(&error)),
                    file.read(vec![0; 10], 0).wait().is_err_and(|failed| forked(failed.error())),
                    file.write(vec![0; 10], 0).wait().is_err_and(|failed| forked(failed.error())),
                    file.try_read(vec![0; 10], 0).is_err_and(|failed| forked(failed.error())),
                    file.read_at(&mut [0; 10], 0).is_err_and(|error| forked(&error)),
                    file.write_at(&[0; 10], 0).is_err_and(|error| forked(&error)),
                    file.sync_data().wait().is_err_and(|failed| forked(failed.error())),
                    file.set_len(0).wait().is_err_and(|failed| forked(failed.error())),
                    aio.read_path("/dev/null", vec![0; 1]).wait().is_err_and(|failed| forked(failed.error())),
                    closing.take()?.close().is_err_and(|error| forked(&error)),
                    tickets[0].take()?.wait().is_err_and(|failed| forked(failed.error())),
                    tickets[1].as_ref()?.wait_timeout(std::time::Duration::ZERO).is_err_and(|error| forked(&error)),
                    {
                        let mut ticket = tickets[2].take()?;
                        let polled = std::pin::Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
                        matches!(polled, Poll::Ready(Err(failed)) if forked(failed.error()))
                    },
                ];
                if let Some(wrong) = checks.iter().position(|check| !check) {
                    return Some(wrong as i32 + 1);
                }
                tickets[3].as_ref()?.cancel();
                let _ = (aio.stats(), aio.arena().in_use(), tickets[4].as_ref()?.is_done());
                // All that the child holds goes, the parent's I/O in flight or not.
                drop(sync);
                tickets.clear();
                drop(arena);
                drop(forgotten.take());
                drop(file);
                drop(aio);
                (rules.0.load(Ordering::SeqCst) != wakes).then_some(50)
            });
            assert_eq!(wrong, 0, "50: the child woke a queue of the parent's; 99: it panicked; negative: a signal");
            // The parent goes on as if nothing had been.
            assert_eq!(gate.kept(), 8);
            assert_eq!(memory.dropped(), 0);
            gate.open();
            for (i, ticket) in tickets.into_iter().enumerate() {
                let mut buffer = ticket.unwrap().wait().unwrap();
                assert!(buffer.bytes() == &content[i * 2 * BLOCK..][..2 * BLOCK]);
            }
            memory.assert_released();
            let (_, _, arena, sync) = all.unwrap();
            sync.wait().unwrap();
            drop(arena);
        }
        assert_eq!(gate.offences(), Vec::<String>::new());
    });
}

#[test]
fn a_forked_child_may_open_a_handle_of_its_own() {
    each_backend("a handle in a child", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let path = folder.file("t", &pattern(1, 4 * BLOCK));
        let file = aio.open(&path).unwrap();
        // Two writes of the parent's are in flight, one of which makes the file longer.
        gate.close();
        let writes = [file.write(vec![1; BLOCK], 0), file.write(vec![2; BLOCK], 4 * BLOCK as u64)];
        gate.wait_for(2);
        let wrong = forked(|| {
            // Without the gate.
            let Ok(aio) = aio::builder().backend(backend).direct(direct).build() else { return Some(1) };
            let Ok(file) = aio.open(&path) else { return Some(2) };
            if file.write(vec![3; BLOCK], BLOCK as u64).wait().is_err() {
                return Some(3);
            }
            // It waits for the child's write, and for none of the parent's.
            if file.sync_data().wait().is_err() {
                return Some(4);
            }
            match file.read(vec![0; BLOCK], BLOCK as u64).wait() {
                Ok(bytes) if bytes == vec![3; BLOCK] => {}
                _ => return Some(5),
            }
            drop(file);
            aio.close().is_err().then_some(6)
        });
        assert_eq!(wrong, 0, "-14: the child hung");
        gate.open();
        for write in writes {
            write.wait().unwrap();
        }
        let data = std::fs::read(&path).unwrap();
        let starts: Vec<u8> = data.chunks(BLOCK).map(|chunk| chunk[7]).collect();
        assert_eq!((data.len(), starts[0], starts[1], starts[4]), (5 * BLOCK, 1, 3, 2));
    });
}

#[test]
fn a_scope_that_forks_returns_in_both() {
    each_backend("a fork in a scope", |backend, direct| {
        let (aio, gate) = gated(backend, &Arc::new(Plain), small(1, 4, direct));
        let folder = Folder::new();
        let content = pattern(1, 2 * BLOCK);
        let file = aio.open(folder.file("t", &content)).unwrap();
        let mut memory = vec![0; 2 * BLOCK];
        gate.close();
        let mut child = None;
        let result = aio.scope(|scope| {
            scope.read(&file, &mut memory[..], 0);
            gate.wait_for(2);
            // SAFETY: the child leaves the scope and ends itself.
            child = Some(unsafe { libc::fork() });
            if child == Some(0) {
                // SAFETY: sets a timer of this process.
                unsafe { libc::alarm(30) };
            } else {
                gate.open();
            }
        });
        if child == Some(0) {
            let told = matches!(result, Err(Error::Forked));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!told)) };
        }
        result.unwrap();
        assert!(memory == content);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child.unwrap(), &mut status, 0) }, child.unwrap());
        assert_eq!(status, 0);
    });
}

#[test]
fn a_forked_child_leaves_the_temporary_to_its_parent() {
    let (folder, aio) = (Folder::new(), aio::builder().build().unwrap());
    let path = folder.file("t", b"old");
    let new = aio.create_atomic(&path).unwrap();
    new.write(vec![1; 5000], 0).wait().unwrap();
    let mut new = Some(new);
    let wrong = forked(|| {
        drop(new.take());
        None
    });
    assert_eq!(wrong, 0);
    new.take().unwrap().commit().wait().unwrap();
    assert_eq!((std::fs::read(&path).unwrap(), folder.count()), (vec![1; 5000], 1));
}
