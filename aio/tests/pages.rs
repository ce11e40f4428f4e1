//! Memory of the caller's in 4 KiB pages: staged at first, made huge when it comes again, and always the same bytes.

#[path = "support/pages.rs"]
mod pages;
mod support;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use aio::op::Direction::{Read, Write};
use aio::{AioHandle, DirectMode};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pages::{HUGE, Memory, USES, can_be_made, in_huge_pages, transfer};
use support::child::{alone, forked};
use support::{Folder, backends, pattern};

const LEN: usize = 4 * HUGE;

/// Runs a test on every backend, with a file of [`LEN`] bytes, where there is direct I/O and the kernel can do it.
fn each(test: impl Fn(&AioHandle, &Path, &[u8])) {
    if !can_be_made() {
        return;
    }
    let folder = Folder::new();
    let content = pattern(15, LEN);
    for backend in backends() {
        let aio = aio::builder().backend(backend).direct(DirectMode::On).build().unwrap();
        let path = folder.file(backend.name(), &content);
        test(&aio, &path, &content);
    }
}

#[test]
fn what_is_read_into_untouched_memory_comes_in_huge_pages() {
    each(|aio, path, content| {
        let mut memory = Memory::fresh(LEN);
        assert_eq!(transfer(aio, path, Read, memory.bytes()), 0);
        assert!(memory.bytes() == content);
        assert_eq!(memory.huge(), LEN);
    });
}

#[test]
fn reads_into_touched_memory_are_staged_until_it_comes_again() {
    each(|aio, path, content| {
        let mut memory = Memory::touched(LEN, 1);
        memory.edges().into_iter().for_each(|edge| edge.fill(0xAA));
        for time in 1..=USES + 1 {
            memory.bytes().fill(2);
            let staged = transfer(aio, path, Read, memory.bytes());
            assert!(memory.bytes() == content, "time {time}");
            let (wanted, huge) = if time < USES { (LEN, 0) } else { (0, LEN) };
            assert_eq!((staged, memory.huge()), (wanted, huge), "time {time}");
        }
        assert!(memory.edges().into_iter().all(|edge| edge.iter().all(|byte| *byte == 0xAA)));
    });
}

#[test]
fn writes_of_touched_memory_are_staged_until_it_comes_again() {
    each(|aio, path, _| {
        let mut memory = Memory::touched(LEN, 1);
        for time in 1..=USES + 1 {
            memory.bytes().copy_from_slice(&pattern(time as u64, LEN));
            let staged = transfer(aio, path, Write, memory.bytes());
            let (wanted, huge) = if time < USES { (LEN, 0) } else { (0, LEN) };
            assert_eq!((staged, memory.huge()), (wanted, huge), "time {time}");
            assert!(memory.bytes() == pattern(time as u64, LEN) && fs::read(path).unwrap() == memory.bytes());
        }
    });
}

#[test]
fn memory_of_which_ops_use_more_and_more_comes_again() {
    each(|aio, path, content| {
        let mut memory = Memory::touched(LEN, 1);
        for time in 1..=USES + 1 {
            let used = 4096 * (USES + 2 - time)..LEN - HUGE + 4096 * time;
            let staged = transfer(aio, path, Read, &mut memory.bytes()[used.clone()]);
            assert_eq!(staged > 0, time < USES, "time {time}");
            assert!(memory.bytes()[used.clone()] == content[..used.len()]);
        }
    });
}

#[test]
fn memory_that_two_ops_use_at_once_comes_again() {
    each(|aio, path, _| {
        let mut memory = Memory::touched(LEN, 1);
        let paths = [path.to_owned(), path.with_extension("second")];
        for _ in 0..USES {
            let files = paths.each_ref().map(|path| aio.create(path).unwrap());
            let bytes = memory.bytes();
            aio.scope(|scope| files.each_ref().map(|file| scope.write(file, &*bytes, 0))).unwrap();
        }
        // What one op has in flight stays as it is for the other.
        transfer(aio, path, Write, memory.bytes());
        assert_eq!(memory.huge(), LEN);
        assert!(paths.iter().all(|path| fs::read(path).unwrap() == memory.bytes()));
    });
}

#[test]
fn a_write_of_untouched_memory_takes_none() {
    each(|aio, path, _| {
        let mut memory = Memory::fresh(LEN);
        assert_eq!(transfer(aio, path, Write, memory.bytes()), 0);
        assert_eq!(memory.huge(), 0);
        assert!(fs::read(path).unwrap() == [0; LEN]);
    });
}

#[test]
fn a_write_of_memory_that_is_partly_there_takes_none() {
    each(|aio, path, _| {
        let mut memory = Memory::fresh(LEN);
        memory.bytes().iter_mut().step_by(3 * 4096).for_each(|byte| *byte = 1);
        let before = memory.in_smaps("Rss");
        for time in 1..=USES + 2 {
            assert_eq!(transfer(aio, path, Write, memory.bytes()), LEN, "time {time}");
            assert_eq!((memory.in_smaps("Rss"), memory.huge()), (before, 0), "time {time}");
        }
        assert!(fs::read(path).unwrap() == memory.bytes());
    });
}

/// The child's writes leave it the parent's memory.
#[test]
fn a_write_of_memory_that_a_fork_shares_copies_none_of_it() {
    alone("a_write_of_memory_that_a_fork_shares_copies_none_of_it", || {
        if !can_be_made() {
            return;
        }
        let folder = Folder::new();
        let mut memory = Memory::touched(LEN, 1);
        for backend in backends() {
            let path = folder.path(backend.name());
            let wrong = forked(|| {
                let aio = aio::builder().backend(backend).direct(DirectMode::On).build().unwrap();
                let dirty = |memory: &Memory| ["Shared_Dirty", "Private_Dirty"].map(|field| memory.in_smaps(field));
                let before = dirty(&memory);
                (1..=USES as i32 + 2).find(|_| {
                    transfer(&aio, &path, Write, memory.bytes());
                    dirty(&memory) != before
                })
            });
            assert_eq!(wrong, 0, "{backend}: the write that copied memory");
            assert!(fs::read(&path).unwrap() == memory.bytes());
        }
        // Not shared any more.
        let aio = aio::builder().direct(DirectMode::On).build().unwrap();
        (0..USES).for_each(|_| _ = transfer(&aio, &folder.path("own"), Write, memory.bytes()));
        assert_eq!(memory.huge(), LEN);
    });
}

/// Staging takes no more than the arena may have, and makes way.
#[test]
fn staging_is_within_the_limit_and_makes_way() {
    const LIMIT: u64 = 64 << 20;
    if !can_be_made() {
        return;
    }
    let folder = Folder::new();
    let mut memory = Memory::touched(LIMIT as usize, 1);
    for backend in backends() {
        let aio = aio::builder().backend(backend).direct(DirectMode::On).threads(4).arena_limit(LIMIT);
        let aio = aio.block_size(4 << 20).build().unwrap();
        let path = folder.path(backend.name());
        assert!(transfer(&aio, &path, Write, memory.bytes()) > 0, "{backend}");
        assert!(aio.arena().mapped() <= LIMIT, "{backend}");
        aio.arena().reserve(48 << 20).unwrap();
        assert!(aio.arena().mapped() <= LIMIT && aio.alloc(48 << 20).is_ok(), "{backend}");
        assert!(fs::read(&path).unwrap() == memory.bytes());
    }
}

#[test]
fn that_too_many_files_are_open_passes() {
    alone("that_too_many_files_are_open_passes", || {
        each(|aio, path, content| {
            let mut memory = Memory::touched(LEN, 1);
            let file = aio.open(path).unwrap();
            let mut read = || {
                memory.bytes().fill(1);
                let before = aio.stats().bytes_staged;
                aio.scope(|scope| scope.read(&file, memory.bytes(), 0)).unwrap();
                assert!(memory.bytes() == content);
                (aio.stats().bytes_staged - before) as usize
            };
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
            let staged = read();
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
            assert_eq!((staged, read()), (0, LEN));
        });
    });
}

#[test]
fn memory_without_a_whole_huge_page_is_taken_as_it_is() {
    each(|aio, path, content| {
        let mut memory = Memory::touched(LEN, 1);
        // As long as one, and none.
        let part = HUGE / 2..HUGE / 2 + HUGE;
        for _ in 0..=USES {
            assert_eq!(transfer(aio, path, Read, &mut memory.bytes()[part.clone()]), 0);
        }
        assert_eq!(memory.huge(), 0);
        assert!(memory.bytes()[part] == content[..HUGE]);
        assert!(memory.bytes()[..HUGE / 2].iter().all(|byte| *byte == 1));
    });
}

#[test]
fn shared_memory_and_files_are_not_touched() {
    each(|aio, path, content| {
        let mut memory = Memory::shared(LEN);
        for _ in 0..=USES {
            assert_eq!(transfer(aio, path, Read, memory.bytes()), 0);
            assert!(memory.bytes() == content);
        }
        assert_eq!(memory.huge(), 0);
        let other = path.with_extension("mapped");
        fs::write(&other, content).unwrap();
        let file = fs::File::options().read(true).write(true).open(&other).unwrap();
        for flags in [MapFlags::MAP_SHARED, MapFlags::MAP_PRIVATE] {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new mapping of a file that the test alone changes; it stays until the process ends.
            let mapped = unsafe {
                let at = mmap(None, NonZeroUsize::new(LEN).unwrap(), access, flags, &file, 0).unwrap();
                std::slice::from_raw_parts_mut(at.cast::<u8>().as_ptr(), LEN)
            };
            mapped.fill(3);
            for _ in 0..=USES {
                assert_eq!(transfer(aio, path, Read, mapped), 0, "{flags:?}");
                assert!(mapped == content, "{flags:?}");
            }
            let start = mapped.as_ptr().addr();
            assert_eq!(in_huge_pages(start..start + LEN), 0, "{flags:?}");
        }
    });
}

#[test]
fn memory_whose_owner_wants_no_huge_pages_is_staged_and_keeps_its_pages() {
    each(|aio, path, content| {
        let mut memory = Memory::touched(LEN, 1);
        memory.refuse_huge_pages();
        assert!(!aio::buf::use_huge_pages(memory.bytes()));
        for _ in 0..=USES {
            memory.bytes().fill(1);
            assert_eq!(transfer(aio, path, Read, memory.bytes()), LEN);
            assert!(memory.bytes() == content);
        }
        assert_eq!(memory.huge(), 0);
    });
}

#[test]
fn huge_pages_on_request_keep_what_was_written() {
    each(|aio, path, content| {
        let mut memory = Memory::touched(LEN, 1);
        memory.bytes()[..HUGE + 5].fill(9);
        assert!(aio::buf::use_huge_pages(memory.bytes()));
        assert_eq!(memory.huge(), LEN);
        assert!(memory.bytes()[..HUGE + 5].iter().all(|byte| *byte == 9));
        assert!(memory.bytes()[HUGE + 5..].iter().all(|byte| *byte == 1));
        assert_eq!(transfer(aio, path, Read, memory.bytes()), 0);
        assert!(memory.bytes() == content);
    });
}

#[test]
fn memory_that_is_faulted_in_is_huge_where_it_was_untouched_and_stays_as_it_is_elsewhere() {
    each(|aio, path, content| {
        let mut memory = Memory::fresh(LEN);
        aio::buf::fault_in(memory.bytes());
        assert_eq!(memory.huge(), LEN);
        assert_eq!(transfer(aio, path, Read, memory.bytes()), 0);
        assert!(memory.bytes() == content);
        let mut memory = Memory::touched(LEN, 7);
        aio::buf::fault_in(memory.bytes());
        assert_eq!(memory.huge(), 0);
        assert!(memory.bytes().iter().all(|byte| *byte == 7));
        // In small pages, where there is no room for huge ones.
        let mut memory = Memory::fresh(LEN);
        let inside = 5..HUGE - 5;
        let start = memory.bytes()[inside.clone()].as_ptr().addr();
        aio::buf::fault_in(&mut memory.bytes()[inside.clone()]);
        let whole = start.next_multiple_of(4096)..(start + inside.len()) / 4096 * 4096;
        assert_eq!(memory.in_smaps("Rss"), whole.len());
        assert_eq!(memory.huge(), 0);
        aio::buf::fault_in(&mut [0u8; 0]);
    });
}
