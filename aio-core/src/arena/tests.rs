use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::mapping::{HUGE_PAGE, REGISTRABLE};
use super::*;
use crate::buf::IoBuf;

const MIB: usize = 1 << 20;

/// How many pages of a range are present; `None` if part of it is not mapped.
fn resident(ptr: *const u8, len: usize) -> Option<usize> {
    let mut pages = vec![0_u8; len.div_ceil(page_size())];
    // SAFETY: mincore only looks at page tables, and writes one byte per page into `pages`.
    let refused = unsafe { libc::mincore(ptr.cast_mut().cast(), len, pages.as_mut_ptr()) };
    (refused == 0).then(|| pages.iter().filter(|&&page| page & 1 == 1).count())
}

fn is_out_of_memory(result: Result<AlignedBuf>) -> bool {
    matches!(result, Err(Error::OutOfMemory { .. }))
}

/// Spins until `count` threads wait for room.
fn until_waiting(arena: &Arena, count: usize) {
    while arena.shared.pool.lock().waiting < count {
        thread::yield_now();
    }
}

/// Cuts a piece without touching its memory.
fn cut(arena: &Arena, need: usize) -> Piece {
    arena.shared.pool.lock().cut(need, true, &arena.shared).unwrap().0
}

#[test]
fn a_buffer_is_aligned_zeroed_present_and_in_a_region() {
    let arena = Arena::new(1 << 30);
    assert_eq!((arena.mapped(), arena.in_use(), arena.limit()), (0, 0, 1 << 30));
    let large = arena.alloc(5 * MIB + 1).unwrap();
    let small = arena.alloc(1).unwrap();
    assert_eq!(large.as_ptr().align_offset(HUGE_PAGE), 0);
    for (buffer, len) in [(&large, 5 * MIB + 1), (&small, 1)] {
        assert_eq!(buffer.len(), len);
        assert_eq!(buffer.capacity(), len.next_multiple_of(page_size()));
        assert_eq!(buffer.as_ptr().align_offset(page_size()), 0);
        assert!(buffer[..] == vec![0; len]);
        let region = arena.region(IoBuf::region(buffer).unwrap()).unwrap();
        let start = buffer.as_ptr() as usize - region.ptr() as usize;
        assert!(start + buffer.capacity() <= region.len());
    }
    assert_eq!(arena.in_use(), (large.capacity() + small.capacity()) as u64);
    drop((large, small));
    assert_eq!(arena.in_use(), 0);
    assert!(arena.mapped() > 0);
    assert!(arena.region(RegionId(77)).is_none());
}

#[test]
fn pages_are_present_before_anyone_touches_them_and_only_once_faulted_in() {
    let arena = Arena::new(1 << 30);
    let buffer = arena.alloc(3 * MIB).unwrap();
    assert_eq!(resident(buffer.as_ptr(), buffer.len()), Some(3 * MIB / page_size()));
    let (region, start) = (IoBuf::region(&buffer).unwrap(), buffer.as_ptr());
    drop(buffer);
    let mut pool = arena.shared.pool.lock();
    let (piece, fresh) = pool.cut(4 * MIB, true, &arena.shared).unwrap();
    assert_eq!((piece.region(), piece.ptr().as_ptr().cast_const()), (Some(region), start));
    assert_eq!(fresh, vec![3 * MIB..4 * MIB; 1]);
}

#[test]
fn reserved_memory_serves_what_comes_later() {
    let arena = Arena::new(256 << 20);
    assert!(matches!(arena.reserve((256 << 20) + 1), Err(Error::OutOfMemory { .. })));
    arena.reserve(0).unwrap();
    arena.reserve(100 << 20).unwrap();
    let mapped = arena.mapped();
    assert!(mapped >= 100 << 20 && arena.in_use() == 0);
    arena.reserve(100 << 20).unwrap();
    assert_eq!(arena.mapped(), mapped);
    let fresh = arena.shared.pool.lock().cut(100 << 20, true, &arena.shared).unwrap().1;
    assert!(fresh.is_empty(), "{fresh:?}");
    assert!(matches!(arena.reserve(200 << 20), Err(Error::OutOfMemory { .. })), "the limit counts what is in use");
    assert_eq!(arena.in_use(), 100 << 20);
}

#[test]
fn empty_and_resized_buffers() {
    let arena = Arena::new(1 << 20);
    let mut empty = arena.alloc(0).unwrap();
    assert!(empty.is_empty() && empty.capacity() == 0 && IoBuf::region(&empty).is_none() && arena.mapped() == 0);
    assert_eq!(empty.as_ptr().align_offset(page_size()), 0);
    empty.set_len(0).unwrap();
    assert!(empty.set_len(1).is_err());

    let mut buffer = arena.alloc(10).unwrap();
    buffer.copy_from_slice(b"0123456789");
    buffer.truncate(3);
    buffer.truncate(5);
    assert_eq!(&buffer[..], b"012");
    buffer.set_len(page_size()).unwrap();
    assert_eq!(&buffer[..11], b"0123456789\0");
    let error = buffer.set_len(page_size() + 1).unwrap_err().to_string();
    assert!(error.contains(&(page_size() + 1).to_string()), "{error}");
    assert_eq!(buffer.len(), page_size());
    assert!(!format!("{buffer:?}").contains("48, 49"), "contents do not belong in logs");
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let arena = Arena::new(100_001);
    for len in [100_002, 1 << 40, usize::MAX - 1, usize::MAX] {
        assert!(is_out_of_memory(arena.alloc(len)), "{len}");
    }
    let pages = 100_001 / page_size();
    let held: Vec<_> = (0..pages).map(|_| arena.try_alloc(1).unwrap()).collect();
    assert!(is_out_of_memory(arena.try_alloc(1)));
    assert!(arena.mapped() <= 100_001 && arena.mapped().is_multiple_of(page_size() as u64));
    let staging = arena.alloc_unlimited(100_000).unwrap();
    assert_eq!(arena.in_use(), (pages * page_size()) as u64);
    drop((held, staging));
    assert_eq!(arena.in_use(), 0);
}

#[test]
fn a_system_without_memory_is_an_error() {
    // More than any address space has.
    let arena = Arena::new(u64::MAX);
    assert!(matches!(arena.alloc(1 << 60), Err(Error::MapFailed { .. })));
    let error = arena.alloc_unlimited(1 << 60).unwrap_err().to_string();
    assert!(error.starts_with("cannot map 1152921504606846976 bytes of memory: Cannot allocate memory"), "{error}");
    assert!(is_out_of_memory(arena.alloc(usize::MAX)));
    assert!(matches!(arena.reserve(u64::MAX), Err(Error::OutOfMemory { .. })));
    assert_eq!((arena.in_use(), arena.mapped()), (0, 0));
    assert_eq!(arena.alloc(1).unwrap()[..], [0]);
}

#[test]
fn waiting_allocations_are_woken_by_drops_on_other_threads() {
    let arena = Arena::new(4 << 20);
    let first = arena.alloc(2 * MIB).unwrap();
    let second = arena.alloc(2 * MIB).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let large = threads
            .spawn(|| arena.alloc(4 * MIB).map(|buffer| assert!(!done.swap(true, Ordering::SeqCst), "{buffer:?}")));
        until_waiting(&arena, 1);
        drop(first);
        // One half is not enough for the large one, which must not be forgotten for that.
        let small = arena.alloc(MIB).unwrap();
        assert!(!done.load(Ordering::SeqCst));
        let other = threads.spawn(|| arena.alloc(2 * MIB).map(drop));
        until_waiting(&arena, 2);
        // Lets both fall asleep, the large one first: waking only one of them would be waking the wrong one.
        thread::sleep(std::time::Duration::from_millis(20));
        drop(second);
        other.join().unwrap().unwrap();
        assert!(!done.load(Ordering::SeqCst));
        drop(small);
        large.join().unwrap().unwrap();
    });
    assert!(done.load(Ordering::SeqCst));
    assert_eq!((arena.in_use(), arena.shared.pool.lock().waiting), (0, 0));
}

#[test]
fn mappings_live_exactly_as_long_as_their_last_user() {
    let arena = Arena::new(1 << 30);
    let mapped = Arc::clone(&arena.shared.mapped);
    let mut buffer = arena.alloc(MIB).unwrap();
    let region = arena.region(IoBuf::region(&buffer).unwrap()).unwrap();
    drop(arena);
    buffer.fill(7);
    assert!(mapped.load(Ordering::Relaxed) > 0);
    thread::spawn(move || drop(buffer)).join().unwrap();
    assert_eq!(mapped.load(Ordering::Relaxed), region.len() as u64);
    assert!(resident(region.ptr(), region.len()).is_some());
    drop(region.clone());
    assert!(mapped.load(Ordering::Relaxed) > 0);
    drop(region);
    assert_eq!(mapped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_buffer_too_large_to_register_is_contiguous_and_its_mapping_is_used_again() {
    let arena = Arena::new(3 << 30);
    let buffer = |piece: Piece, len| AlignedBuf::new(Arc::clone(&arena.shared), piece, len);
    let one = buffer(cut(&arena, REGISTRABLE), REGISTRABLE);
    assert_eq!(arena.region(IoBuf::region(&one).unwrap()).unwrap().len(), REGISTRABLE);
    drop(one);
    // Not through `alloc`, which would take its time to fault in a GiB.
    let need = REGISTRABLE + page_size();
    let (piece, fresh) = arena.shared.pool.lock().cut(need, true, &arena.shared).unwrap();
    assert_eq!(fresh, vec![0..need; 1]);
    let mut huge = buffer(piece, REGISTRABLE + 1);
    assert_eq!(IoBuf::region(&huge), None);
    huge[REGISTRABLE] = 9;
    let (ptr, mapped) = (huge.as_ptr(), arena.mapped());
    drop(huge);
    let again = arena.alloc(REGISTRABLE + 1).unwrap();
    assert_eq!((again.as_ptr(), arena.mapped(), again[REGISTRABLE]), (ptr, mapped, 9));
    drop(again);
    // Nothing is in use, so all of it goes before the limit is passed.
    assert!(arena.shared.pool.lock().has_room(2 * REGISTRABLE, &arena.shared));
    assert_eq!(arena.mapped(), 0);
}

#[test]
fn free_regions_make_way_unless_a_queue_may_have_them() {
    let arena = Arena::new(64 << 20);
    let region = |buffer: &AlignedBuf| IoBuf::region(buffer).unwrap();
    let kept: Vec<_> = (0..2).map(|_| arena.alloc(16 * MIB).unwrap()).collect();
    let registered = arena.region(region(&kept[0])).unwrap();
    let ids: Vec<_> = kept.iter().map(region).collect();
    assert_ne!(ids[0], ids[1]);
    drop(kept);
    // Fits under the limit, but nowhere in what is mapped.
    let large = arena.alloc(48 * MIB).unwrap();
    assert!(!ids.contains(&region(&large)), "ids are never used again");
    assert!(arena.region(ids[0]).is_some() && arena.region(ids[1]).is_none());
    assert!(arena.mapped() <= (64 << 20) + registered.len() as u64);
    drop(registered);
}

#[test]
fn with_room_only_in_pieces_an_allocation_waits_rather_than_go_far_beyond_the_limit() {
    let arena = Arena::new(128 << 20);
    // Held as a queue would hold them, so that nothing can be unmapped.
    let mut registered = Vec::new();
    let mut buffers: Vec<_> = (0..32).map(|_| arena.alloc(4 * MIB).unwrap()).collect();
    registered.extend((0..32).filter_map(|id| arena.region(RegionId(id))));
    let mut keep = [true, false].into_iter().cycle();
    buffers.retain(|_| keep.next().unwrap());
    assert_eq!(arena.in_use(), 64 << 20);
    assert!(is_out_of_memory(arena.try_alloc(64 * MIB)));
    let moderately = arena.try_alloc(24 * MIB).unwrap();
    assert!(arena.mapped() <= (128 + 32) << 20);
    drop(moderately);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.alloc(64 * MIB).map(drop));
        until_waiting(&arena, 1);
        drop(buffers);
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn few_buffers_waste_at_most_16_mib() {
    for len in [page_size(), 64 << 10, 2 * MIB, 2 * MIB + page_size(), 3 * MIB, 9 * MIB, 17 * MIB, 900 * MIB] {
        let arena = Arena::new(1 << 40);
        let mut pieces = Vec::new();
        for _ in 0..24 {
            pieces.push(cut(&arena, len));
            let waste = arena.mapped() - arena.in_use();
            assert!(waste <= 16 << 20, "{} buffers of {len}: {waste}", pieces.len());
        }
    }
}

#[test]
fn regions_stay_few() {
    let arena = Arena::new(1 << 40);
    let pieces: Vec<_> = (0..16 << 10).map(|_| cut(&arena, MIB)).collect();
    let last = pieces.iter().filter_map(Piece::region).max().unwrap();
    assert!(last.0 < 1200, "{last:?} for 16 GiB in 1 MiB buffers, of the 16384 that a queue has room for");

    // A series that grows, where every region was registered: none fits the next buffer, none can be unmapped.
    let (arena, mut registered) = (Arena::new(1 << 40), Vec::new());
    for len in (16 * MIB..=REGISTRABLE).step_by(4 * MIB) {
        let piece = cut(&arena, len);
        registered.push(arena.region(piece.region().unwrap()).unwrap());
        arena.shared.pool.lock().give_back(piece);
    }
    assert!(arena.mapped() <= 3 << 30, "{} bytes", arena.mapped());
}

/// Runs `child` in a forked process, where no other test runs, and asserts that it returns 0.
fn in_child(child: impl FnOnce() -> i32) {
    // SAFETY: the child has this thread only; what is called below allocates memory, which glibc allows, and takes no
    // lock that another thread may have held.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let failed = child();
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(failed) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 0), "what the child found wrong");
}

/// The number, from 1, of the first check that failed, or 0.
fn first_failed(checks: &[bool]) -> i32 {
    checks.iter().position(|passed| !passed).map_or(0, |index| index as i32 + 1)
}

#[test]
fn a_forked_child_gets_errors_and_its_drops_leak() {
    let arena = Arena::new(1 << 30);
    let buffer = arena.alloc(MIB).unwrap();
    let region = arena.region(IoBuf::region(&buffer).unwrap()).unwrap();
    let (ptr, len) = (region.ptr(), region.len());
    let mapped = Arc::clone(&arena.shared.mapped);
    // Copies of the owners, as bits, for the child to drop; the parent's stay what they are.
    let owners = std::mem::ManuallyDrop::new((buffer, region, arena));
    // So that the child finds the lock taken for ever, as it may when another thread had it.
    let lock = owners.2.shared.pool.lock();
    in_child(|| {
        // SAFETY: the parent's values are another process's; this one drops its own once.
        let (buffer, region, arena) = unsafe { std::ptr::read(&*owners) };
        let forked = |result: Result<AlignedBuf>| matches!(result, Err(Error::Forked));
        let checks = [
            forked(arena.alloc(1)) && forked(arena.try_alloc(0)) && forked(arena.alloc_unlimited(1)),
            matches!(arena.reserve(1), Err(Error::Forked)),
            arena.region(RegionId(0)).is_none(),
            arena.in_use() == 0,
            resident(ptr, len).is_none(),
        ];
        // Something of the child's own that happens to be at the same addresses.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: NOREPLACE touches nothing that is mapped.
        let own = unsafe { libc::mmap(ptr.cast(), len, libc::PROT_READ, flags, -1, 0) };
        let before = mapped.load(Ordering::Relaxed);
        drop((buffer, region, arena));
        let unchanged = mapped.load(Ordering::Relaxed) == before;
        first_failed(&[&checks[..], &[own == ptr.cast(), resident(ptr, len).is_some(), unchanged]].concat())
    });
    drop(lock);
    let (buffer, region, arena) = std::mem::ManuallyDrop::into_inner(owners);
    assert!(resident(ptr, len).is_some());
    drop((buffer, region, arena));
    assert_eq!(mapped.load(Ordering::Relaxed), 0);
}

#[test]
fn a_new_arena_works_in_a_forked_child_and_leaves_nothing_mapped() {
    in_child(|| {
        let arena = Arena::new(1 << 30);
        let Ok(buffer) = arena.alloc(MIB) else { return 99 };
        let Some(region) = arena.region(RegionId(0)) else { return 98 };
        let (ptr, len) = (region.ptr(), region.len());
        let present = resident(buffer.as_ptr(), MIB) == Some(MIB / page_size());
        drop(arena);
        drop(buffer);
        let kept = resident(ptr, len).is_some();
        drop(region);
        let gone = (0..len).step_by(page_size()).all(|at| resident(ptr.wrapping_add(at), 1).is_none());
        first_failed(&[present, kept, gone])
    });
}

#[test]
fn the_default_limit_is_less_than_the_machine_has() {
    let limit = Arena::default_limit();
    assert!(limit > 1 << 20 && limit < 1 << 50, "{limit}");
}

#[derive(Debug, Clone)]
enum Step {
    Alloc { len: usize, counted: bool },
    Free(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..3_usize, 1..64 * 1024_usize, 1..4 * MIB, Just(2 * MIB), Just(MIB)];
    prop_oneof![
        3 => (len, prop::bool::weighted(0.8)).prop_map(|(len, counted)| Step::Alloc { len, counted }),
        2 => any::<prop::sample::Index>().prop_map(Step::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn buffers_never_overlap_and_all_memory_comes_back(steps in prop::collection::vec(step(), 1..80)) {
        const LIMIT: u64 = 24 << 20;
        let arena = Arena::new(LIMIT);
        let mapped = Arc::clone(&arena.shared.mapped);
        let mut held: Vec<(AlignedBuf, u8, bool)> = Vec::new();
        let pages = |len: usize| len.next_multiple_of(page_size()) as u64;
        for (step, tag) in steps.into_iter().zip((1..=255).cycle()) {
            let in_use: u64 = held.iter().filter(|held| held.2).map(|held| pages(held.0.len())).sum();
            prop_assert_eq!(arena.in_use(), in_use);
            match step {
                Step::Alloc { len, counted } => {
                    let buffer = if counted { arena.try_alloc(len) } else { arena.alloc_unlimited(len) };
                    let Ok(mut buffer) = buffer else {
                        prop_assert!(counted && in_use + pages(len) > LIMIT);
                        continue;
                    };
                    prop_assert!(!counted || in_use + pages(len) <= LIMIT);
                    prop_assert_eq!((buffer.len(), buffer.as_ptr().align_offset(page_size())), (len, 0));
                    buffer.fill(tag);
                    held.push((buffer, tag, counted));
                }
                Step::Free(index) if !held.is_empty() => {
                    let (buffer, tag, _) = held.swap_remove(index.index(held.len()));
                    prop_assert!(buffer[..] == vec![tag; buffer.len()], "someone else wrote into a buffer");
                }
                Step::Free(_) => {}
            }
        }
        for (buffer, tag, _) in held {
            prop_assert!(buffer[..] == vec![tag; buffer.len()], "someone else wrote into a buffer");
        }
        prop_assert_eq!(arena.in_use(), 0);
        let free = arena.shared.pool.lock().free_ranges();
        for (id, range) in &free {
            prop_assert_eq!(range.clone(), 0..arena.region(*id).unwrap().len(), "not one piece again");
        }
        prop_assert_eq!(free.iter().map(|(_, range)| range.len() as u64).sum::<u64>(), arena.mapped());
        drop(arena);
        prop_assert_eq!(mapped.load(Ordering::Relaxed), 0);
    }
}
