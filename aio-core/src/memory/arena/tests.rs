use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::inbox::Request;
use crate::memory::huge_pages::HUGE_PAGE;
use crate::memory::mapping::REGISTRABLE;
use crate::op::buf::IoBuf;

const MIB: usize = 1 << 20;
/// No arena of these tests has so many regions.
const UNKNOWN: RegionId = RegionId { slot: 77, generation: 0 };

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

/// Spins until `count` allocations wait for room.
pub(super) fn until_waiting(arena: &Arena, count: usize) {
    while arena.shared.pool.lock().turns.waiting() < count {
        thread::yield_now();
    }
}

/// What a queue would get.
fn region_of(arena: &Arena, id: RegionId) -> Option<Region> {
    arena.region(id, &Holder::new(&[].into(), 0))
}

/// Cuts a piece without touching its memory.
fn cut(arena: &Arena, need: usize) -> Piece {
    arena.shared.pool.lock().cut(need, Purpose::User, &arena.shared).unwrap().0
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
        let region = region_of(&arena, IoBuf::region(buffer).unwrap()).unwrap();
        let start = buffer.as_ptr() as usize - region.ptr() as usize;
        assert!(start + buffer.capacity() <= region.len());
    }
    assert_eq!(arena.in_use(), (large.capacity() + small.capacity()) as u64);
    drop((large, small));
    assert_eq!(arena.in_use(), 0);
    assert!(arena.mapped() > 0);
    assert!(region_of(&arena, UNKNOWN).is_none());
}

#[test]
fn pages_are_present_before_anyone_touches_them_and_only_once_faulted_in() {
    let arena = Arena::new(1 << 30);
    let buffer = arena.alloc(3 * MIB).unwrap();
    assert_eq!(resident(buffer.as_ptr(), buffer.len()), Some(3 * MIB / page_size()));
    let (region, start) = (IoBuf::region(&buffer).unwrap(), buffer.as_ptr());
    drop(buffer);
    let mut pool = arena.shared.pool.lock();
    let (piece, fresh) = pool.cut(4 * MIB, Purpose::User, &arena.shared).unwrap();
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
    let fresh = arena.shared.pool.lock().cut(100 << 20, Purpose::User, &arena.shared).unwrap().1;
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
    assert!(arena.alloc_staging(100_000, false).is_none());
    let mapped = arena.mapped();
    let staging = arena.alloc_staging(100_000, true).unwrap();
    assert_eq!(arena.in_use(), (pages * page_size()) as u64);
    assert!(arena.mapped() > 100_001, "what is beyond the limit counts as mapped");
    drop(staging);
    assert_eq!(arena.mapped(), mapped, "what is beyond the limit is not kept");
    drop(held);
    assert_eq!(arena.in_use(), 0);
}

#[test]
fn a_system_without_memory_is_an_error() {
    // More than any address space has.
    let arena = Arena::new(u64::MAX);
    assert!(matches!(arena.alloc(1 << 60), Err(Error::MapFailed { .. })));
    assert!(arena.alloc_staging(1 << 60, true).is_none());
    let error = arena.alloc(1 << 60).unwrap_err().to_string();
    assert!(error.starts_with("cannot map 1152921504606846976 bytes of memory: Cannot allocate memory"), "{error}");
    assert!(is_out_of_memory(arena.alloc(usize::MAX)));
    assert!(matches!(arena.reserve(u64::MAX), Err(Error::OutOfMemory { .. })));
    assert_eq!((arena.in_use(), arena.mapped()), (0, 0));
    assert_eq!(arena.alloc(1).unwrap()[..], [0]);
}

#[test]
fn waiting_allocations_are_served_in_order_by_drops_on_other_threads() {
    let arena = Arena::new(4 << 20);
    let older = arena.alloc(2 * MIB).unwrap();
    let served = AtomicUsize::new(0);
    thread::scope(|threads| {
        let large =
            threads.spawn(|| arena.alloc(4 * MIB).map(|_| assert_eq!(served.fetch_add(1, Ordering::SeqCst), 0)));
        until_waiting(&arena, 1);
        let newer = arena.alloc(MIB).unwrap();
        drop(older);
        {
            // There is room for more; but if that were enough, small ones could keep the large one waiting for ever.
            let Pool { turns, in_use, .. } = &mut *arena.shared.pool.lock();
            assert!(!turns.delays_nobody(*in_use, arena.limit()) && *in_use == 1 << 20);
        }
        let small = threads.spawn(|| arena.alloc(MIB).map(|_| assert_eq!(served.fetch_add(1, Ordering::SeqCst), 1)));
        until_waiting(&arena, 2);
        drop(newer);
        large.join().unwrap().unwrap();
        small.join().unwrap().unwrap();
    });
    assert_eq!((arena.in_use(), arena.shared.pool.lock().turns.waiting(), arena.is_waited_for()), (0, 0, false));
}

/// What the first in line needs is in buffers that nobody drops for now, so that it waits whatever others do.
#[test]
fn an_allocation_that_waits_for_much_stops_none_that_it_need_not() {
    let arena = Arena::new(64 << 20);
    let held = arena.alloc(50 * MIB).unwrap();
    thread::scope(|threads| {
        let large = threads.spawn(|| arena.alloc(32 * MIB).map(drop));
        until_waiting(&arena, 1);
        for _ in 0..100 {
            let both = [arena.try_alloc(MIB), arena.try_alloc(13 * MIB)];
            both.into_iter().for_each(|buffer| drop(buffer.unwrap()));
            drop(arena.alloc_staging(MIB, false).unwrap());
        }
        assert!(!large.is_finished());
        drop(held);
        large.join().unwrap().unwrap();
    });
}

/// The first in line waits for memory that a thread behind it took meanwhile, and that thread for its turn.
#[test]
fn where_the_order_makes_threads_wait_for_each_other_it_is_left() {
    let arena = Arena::new(4 << 20);
    let older = arena.alloc(2 * MIB).unwrap();
    thread::scope(|threads| {
        let large = threads.spawn(|| arena.alloc(4 * MIB).map(drop));
        until_waiting(&arena, 1);
        let newer = arena.alloc(MIB).unwrap();
        drop(older);
        let more = arena.alloc(MIB).unwrap();
        assert!(!large.is_finished());
        drop((newer, more));
        large.join().unwrap().unwrap();
    });
}

#[test]
fn a_wait_for_room_ends_in_time() {
    let arena = Arena::new(4 << 20);
    let held = arena.alloc(3 * MIB).unwrap();
    for timeout in [Duration::ZERO, Duration::from_millis(20)] {
        let error = arena.alloc_timeout(2 * MIB, timeout).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { requested: 2_097_152, in_use: 3_145_728, limit: 4_194_304 }));
    }
    assert!(!arena.is_waited_for());
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.alloc_timeout(2 * MIB, Duration::MAX).map(drop));
        until_waiting(&arena, 1);
        drop(held);
        waiter.join().unwrap().unwrap();
    });
    drop(arena.alloc_timeout(4 * MIB, Duration::ZERO).unwrap());
}

#[test]
fn mappings_live_exactly_as_long_as_their_last_user() {
    let arena = Arena::new(1 << 30);
    let mapped = Arc::clone(&arena.shared.mapped);
    let mut buffer = arena.alloc(MIB).unwrap();
    let region = region_of(&arena, IoBuf::region(&buffer).unwrap()).unwrap();
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
    assert_eq!(region_of(&arena, IoBuf::region(&one).unwrap()).unwrap().len(), REGISTRABLE);
    drop(one);
    // Not through `alloc`, which would take its time to fault in a GiB.
    let need = REGISTRABLE + page_size();
    let (piece, fresh) = arena.shared.pool.lock().cut(need, Purpose::User, &arena.shared).unwrap();
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
    assert!(matches!(arena.shared.pool.lock().room(3 * REGISTRABLE, false, &arena.shared), Room::Ready));
    assert_eq!(arena.mapped(), 0);
}

/// Of a mapping that is used again, nothing is left that no buffer has.
#[test]
fn a_mapping_that_is_used_again_for_less_takes_no_more_than_that() {
    let arena = Arena::new(3 << 30);
    let spare = cut(&arena, 2 * REGISTRABLE);
    let start = spare.ptr();
    drop(arena.shared.pool.lock().give_back(spare));
    let less = cut(&arena, 1664 * MIB);
    assert_eq!((less.ptr(), less.len(), arena.mapped()), (start, 1664 * MIB, 1664 << 20));
    let end = start.as_ptr().wrapping_add(less.len());
    assert_eq!((resident(end.wrapping_sub(page_size()), page_size()), resident(end, page_size())), (Some(0), None));
    let mut pool = arena.shared.pool.lock();
    assert!(matches!(pool.room(1100 * MIB, false, &arena.shared), Room::Ready));
    drop(pool.give_back(less));
}

/// Notes what is logged, and panics.
#[derive(Clone, Default)]
pub(super) struct Log(pub(super) Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
        panic!("on purpose");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_long_wait_is_logged_once_with_what_holds_the_memory() {
    let arena = Arena::new(4 << 20);
    let held = [1, 2].map(|mib| arena.alloc(mib * MIB).unwrap());
    let (first, second) = (Log::default(), Log::default());
    thread::scope(|threads| {
        let spawn = |log: &Log| {
            let (arena, told) = (&arena, log.clone());
            let waiter =
                threads.spawn(move || tracing::subscriber::with_default(told, || arena.alloc(2 * MIB).map(drop)));
            while log.0.lock().unwrap().is_empty() {
                thread::yield_now();
            }
            waiter
        };
        // When the second one is told of, as much time has passed again.
        let waiters = [spawn(&first), spawn(&second)];
        drop(held);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    });
    let told = first.0.lock().unwrap();
    // The second one is the panic of the log.
    let of_waits: Vec<_> = told.iter().filter(|told| told.contains("waiting")).collect();
    assert_eq!(of_waits.len(), 1, "{told:?}");
    assert!(of_waits[0].contains("2 buffers take 3145728 of the arena's 4194304 bytes"), "{told:?}");
    assert!(of_waits[0].contains("until its ticket was waited for"), "{told:?}");
}

/// Stands in for a worker: holds regions as its queue would, and answers when it is told to.
struct Worker {
    inboxes: Arc<[Inbox]>,
    registered: Vec<Region>,
}

impl Worker {
    fn of(arena: &Arena) -> Self {
        let inboxes: Arc<[Inbox]> = [Inbox::default()].into();
        arena.serve(&inboxes);
        Self { inboxes, registered: Vec::new() }
    }

    fn register(&mut self, arena: &Arena, buffer: &AlignedBuf) {
        let id = IoBuf::region(buffer).unwrap();
        if self.registered.iter().all(|region| region.id() != id) {
            self.registered.extend(arena.region(id, &Holder::new(&self.inboxes, 0)));
        }
    }

    /// Waits until it is asked, and removes the regions; what was asked is answered when the result is dropped.
    fn remove(&mut self) -> Vec<Request> {
        while !self.inboxes[0].has_requests() {
            thread::yield_now();
        }
        let requests = self.inboxes[0].take_requests();
        for request in &requests {
            let Request::ReleaseRegions(asked) = request else { panic!("{request:?}") };
            self.registered.retain(|region| !asked.regions().contains(&region.id()));
        }
        requests
    }
}

#[test]
fn free_regions_make_way_at_once_or_when_every_queue_has_given_them_back() {
    let arena = Arena::new(64 << 20);
    let mut workers = [Worker::of(&arena), Worker::of(&arena)];
    let kept: Vec<_> = (0..2).map(|_| arena.alloc(16 * MIB).unwrap()).collect();
    let ids: Vec<_> = kept.iter().map(|buffer| IoBuf::region(buffer).unwrap()).collect();
    assert_ne!(ids[0], ids[1]);
    workers.iter_mut().for_each(|worker| worker.register(&arena, &kept[1]));
    let (ptr, len) = (workers[0].registered[0].ptr(), workers[0].registered[0].len());
    drop(kept);
    // Fits under the limit, but nowhere in what is mapped. One region is nobody's.
    let large = arena.alloc(40 * MIB).unwrap();
    assert!(region_of(&arena, ids[0]).is_none() && region_of(&arena, ids[1]).is_some());
    assert!(workers.iter().all(|worker| !worker.inboxes[0].has_requests()));
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.try_alloc(24 * MIB));
        let answers = workers.each_mut().map(Worker::remove);
        assert!(region_of(&arena, ids[1]).is_none(), "no queue can get it any more");
        let [one, other] = answers;
        drop(one);
        assert!(resident(ptr, len).is_some() && !waiter.is_finished(), "given back before every queue has answered");
        assert!(arena.mapped() <= 64 << 20);
        drop(other);
        let buffer = waiter.join().unwrap().unwrap();
        assert!(arena.mapped() <= 64 << 20);
        assert_ne!(IoBuf::region(&buffer), Some(ids[1]), "names are never used again");
        assert!(IoBuf::region(&buffer).unwrap().slot < 3, "slots are");
    });
    drop(large);
}

/// The kernel's flags of the mapping at an address, as `/proc/self/smaps` abbreviates them.
fn flags(at: *const u8) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_found = false;
    for line in smaps.lines() {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        if let Some((Ok(start), Ok(end))) =
            range.map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)))
        {
            is_found = (start..end).contains(&at.addr());
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_found) {
            return flags.to_owned();
        }
    }
    panic!("{at:?} is not mapped");
}

/// A worker that is busy with something else holds up only those that need what it has.
#[test]
fn only_queues_that_have_a_region_are_asked_for_it() {
    let arena = Arena::new(64 << 20);
    let (mut holds, busy) = (Worker::of(&arena), Worker::of(&arena));
    let buffer = arena.alloc(30 * MIB).unwrap();
    holds.register(&arena, &buffer);
    drop(buffer);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.alloc(64 * MIB).map(drop));
        drop(holds.remove());
        waiter.join().unwrap().unwrap();
    });
    assert!(!busy.inboxes[0].has_requests());
}

/// Room in pieces is room: what is free beside buffers is returned, and these live on.
#[test]
fn fragments_make_way() {
    for registered in [false, true] {
        let arena = Arena::new(64 << 20);
        let mut worker = Worker::of(&arena);
        let mut buffers: Vec<_> = (0..64).map(|_| arena.alloc(MIB).unwrap()).collect();
        buffers.iter().filter(|_| registered).for_each(|buffer| worker.register(&arena, buffer));
        let has_huge_pages = flags(buffers[0].as_ptr()).contains("hg");
        let mut kept: Vec<_> =
            buffers.drain(..).enumerate().filter(|(at, _)| at % 12 == 5).map(|(_, kept)| kept).collect();
        kept.iter_mut().zip(1..).for_each(|(buffer, tag)| buffer.fill(tag));
        let mut large = thread::scope(|threads| {
            let waiter = threads.spawn(|| arena.alloc(59 * MIB));
            if registered {
                drop(worker.remove());
            }
            waiter.join().unwrap().unwrap()
        });
        large.fill(0xEE);
        assert_eq!((arena.mapped(), arena.in_use()), (64 << 20, 64 << 20));
        for (buffer, tag) in kept.iter().zip(1..) {
            assert!(buffer[..] == [tag; MIB], "{tag}: a buffer lost its contents");
            assert_eq!(resident(buffer.as_ptr(), MIB), Some(MIB / page_size()));
            // What no queue had may be a region still, without what was free at its ends.
            let region = region_of(&arena, IoBuf::region(buffer).unwrap());
            assert!(region.is_none_or(|region| !registered && region.len() < 14 * MIB));
        }
        let (ptr, len) = (kept[0].as_ptr(), kept[0].len());
        // A neighbour that was free: its memory is gone, and nothing else is mapped at its place.
        assert_eq!(resident(ptr.wrapping_add(len), page_size()), Some(0));
        // Nor does the kernel fill it again, to make a huge page of what is left.
        assert!(!has_huge_pages || flags(ptr.wrapping_add(len)).contains("nh"));
        drop(kept);
        assert_eq!(arena.in_use(), 59 << 20);
        assert!(!registered || arena.mapped() == 59 << 20, "kept, though nothing can be cut from it");
        drop(large);
    }
}

/// A limit that is just what the buffers take leaves no room for what regions have to spare.
#[test]
fn buffers_that_fill_the_limit_are_in_regions() {
    for len in [page_size(), 300_000, MIB, MIB + 1, 3 * MIB, 5 * MIB] {
        let need = len.next_multiple_of(page_size());
        let count = (48 * MIB) / need;
        let arena = Arena::new((count * need) as u64);
        let buffers: Vec<_> = (0..count).map(|_| arena.try_alloc(len).unwrap()).collect();
        assert_eq!((arena.mapped(), arena.in_use()), (arena.limit(), arena.limit()));
        for buffer in &buffers {
            let region = region_of(&arena, IoBuf::region(buffer).unwrap()).expect("not in a region any more");
            let start = buffer.as_ptr() as usize - region.ptr() as usize;
            assert!(start + buffer.capacity() <= region.len(), "sticks out of its region");
            assert_eq!(resident(region.ptr(), region.len()), Some(region.len() / page_size()));
        }
        drop(buffers);
        drop(arena.try_alloc(arena.limit() as usize).unwrap());
    }
}

#[test]
fn two_that_do_not_wait_for_buffers_wait_for_the_queues_together() {
    let arena = Arena::new(64 << 20);
    let mut worker = Worker::of(&arena);
    let buffers = [30, 20].map(|mib| arena.alloc(mib * MIB).unwrap());
    buffers.iter().for_each(|buffer| worker.register(&arena, buffer));
    drop(buffers);
    thread::scope(|threads| {
        let first = threads.spawn(|| arena.try_alloc(50 * MIB));
        until_waiting(&arena, 1);
        let second = threads.spawn(|| arena.try_alloc(14 * MIB));
        until_waiting(&arena, 2);
        drop(worker.remove());
        let _both = [first, second].map(|waiter| waiter.join().unwrap().unwrap());
    });
}

#[test]
fn buffers_that_are_dropped_while_their_region_leaves_go_with_it() {
    let arena = Arena::new(16 << 20);
    let mut worker = Worker::of(&arena);
    let mut buffers: Vec<_> = (0..16).map(|_| arena.alloc(MIB).unwrap()).collect();
    buffers.iter().for_each(|buffer| worker.register(&arena, buffer));
    let (during, after) = (buffers.swap_remove(3), buffers.swap_remove(9));
    drop(buffers);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.alloc(14 * MIB));
        let asked = worker.remove();
        drop(during);
        assert_eq!(arena.mapped(), 16 << 20);
        drop(asked);
        let large = waiter.join().unwrap().unwrap();
        assert_eq!(arena.in_use(), 15 << 20);
        assert!(arena.mapped() <= 16 << 20);
        drop(after);
        assert_eq!(arena.in_use(), 14 << 20);
        drop(large);
    });
    drop(arena.try_alloc(16 * MIB).unwrap());
}

#[test]
fn a_queue_that_ends_gives_its_regions_to_those_that_wait() {
    // Without an answer, as when it broke: the worker's inbox goes with it, or is closed.
    for close in [true, false] {
        let arena = Arena::new(64 << 20);
        let mut worker = Worker::of(&arena);
        let buffer = arena.alloc(30 * MIB).unwrap();
        worker.register(&arena, &buffer);
        drop(buffer);
        thread::scope(|threads| {
            let waiter = threads.spawn(|| arena.alloc(64 * MIB).map(drop));
            while !worker.inboxes[0].has_requests() {
                thread::yield_now();
            }
            worker.registered.clear();
            if close {
                drop(worker.inboxes[0].close());
            } else {
                drop(worker);
            }
            waiter.join().unwrap().unwrap();
        });
    }
}

/// A queue that keeps a region all the same keeps the memory, and no allocation waits for it.
#[test]
fn what_a_queue_does_not_let_go_of_stays_mapped_and_is_not_waited_for() {
    let arena = Arena::new(64 << 20);
    let mut worker = Worker::of(&arena);
    let buffer = arena.alloc(30 * MIB).unwrap();
    worker.register(&arena, &buffer);
    drop(buffer);
    let kept = worker.registered.clone();
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.try_alloc(64 * MIB));
        drop(worker.remove());
        assert!(is_out_of_memory(waiter.join().unwrap()));
        assert!(resident(kept[0].ptr(), kept[0].len()).is_some());
        // Until the queue ends, nothing would be worth waiting for.
        assert!(is_out_of_memory(arena.alloc(64 * MIB)));
        drop(arena.alloc(20 * MIB).unwrap());
        drop(kept);
        arena.queue_ended(&worker.inboxes);
        drop(arena.try_alloc(64 * MIB).unwrap());
    });
}

/// Engines that share an arena do not unmap what others have reserved.
#[test]
fn what_is_free_stays_mapped_until_the_last_engine_ends() {
    let arena = Arena::new(64 << 20);
    let workers = [Worker::of(&arena), Worker::of(&arena)];
    arena.reserve(32 << 20).unwrap();
    let [one, other] = workers;
    arena.queue_ended(&one.inboxes);
    assert!(arena.mapped() >= 32 << 20);
    drop(one);
    arena.queue_ended(&other.inboxes);
    assert_eq!(arena.mapped(), 0);
}

#[test]
fn a_reservation_is_within_the_limit_and_within_the_machine() {
    let arena = Arena::new(64 << 20);
    let mut worker = Worker::of(&arena);
    let buffers = [30, 20].map(|mib| arena.alloc(mib * MIB).unwrap());
    buffers.iter().for_each(|buffer| worker.register(&arena, buffer));
    drop(buffers);
    let staging = arena.alloc_staging(MIB, false).unwrap();
    for bytes in [64 << 20, 63 << 20] {
        let _ = arena.reserve(bytes);
        assert!(arena.mapped() <= 64 << 20);
    }
    drop(staging);
    arena.reserve(64 << 20).unwrap();
    assert_eq!(arena.mapped(), 64 << 20);
    // So many mappings that the process would have none left.
    let error = Arena::new(u64::MAX).reserve(1 << 46).unwrap_err();
    assert!(matches!(error, Error::MapFailed { requested: 70_368_744_177_664, .. }), "{error}");
}

#[test]
fn staging_makes_way_and_never_waits() {
    let arena = Arena::new(8 << 20);
    let within = arena.alloc_staging(2 * MIB, false).unwrap();
    assert!(within.is_within_limit() && arena.in_use() == 0);
    let held = arena.alloc(6 * MIB).unwrap();
    assert!(arena.mapped() <= 8 << 20);
    assert!(arena.alloc_staging(MIB, false).is_none());
    let beyond = arena.alloc_staging(MIB, true).unwrap();
    assert!(!beyond.is_within_limit() && arena.mapped() <= 9 << 20);
    let worker = Worker::of(&arena);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.alloc(8 * MIB).map(drop));
        until_waiting(&arena, 1);
        assert!(arena.is_waited_for());
        drop(held);
        assert!(arena.alloc_staging(MIB, false).is_none(), "before those that wait");
        while !worker.inboxes[0].has_requests() {
            thread::yield_now();
        }
        drop(worker.inboxes[0].take_requests());
        drop(within);
        waiter.join().unwrap().unwrap();
    });
    drop(beyond);
    assert!(arena.mapped() <= 8 << 20);
}

#[test]
fn reserving_has_idle_staging_given_back() {
    let arena = Arena::new(8 << 20);
    let staging = arena.alloc_staging(4 * MIB, false).unwrap();
    let worker = Worker::of(&arena);
    thread::scope(|threads| {
        let waiter = threads.spawn(|| arena.reserve(6 << 20));
        while !worker.inboxes[0].has_requests() {
            assert!(!waiter.is_finished());
            thread::yield_now();
        }
        drop(staging);
        drop(worker.inboxes[0].take_requests());
        waiter.join().unwrap().unwrap();
    });
    let held = arena.alloc(4 * MIB).unwrap();
    assert!(matches!(arena.reserve(6 << 20), Err(Error::OutOfMemory { .. })));
    drop(held);
}

#[test]
fn handles_without_a_limit_share_one_arena_that_ends_with_them() {
    let (one, other) = (Arena::of_process(), Arena::of_process());
    assert!(Arc::ptr_eq(&one.shared, &other.shared));
    assert_eq!(one.limit(), Arena::default_limit());
    let buffer = one.alloc(1).unwrap();
    assert!(other.in_use() > 0);
    let shared = Arc::downgrade(&one.shared);
    drop((one, other, buffer));
    assert!(shared.strong_count() == 0 || Arena::of_process().shared.born == Generation::now());
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
    assert!(last.slot < 1200, "{last:?} for 16 GiB in 1 MiB buffers, of the 16384 that a queue has room for");

    // A series that grows, where every region was registered: none fits the next buffer.
    let (arena, mut registered) = (Arena::new(1 << 40), Vec::new());
    for len in (16 * MIB..=REGISTRABLE).step_by(4 * MIB) {
        let piece = cut(&arena, len);
        registered.push(region_of(&arena, piece.region().unwrap()).unwrap());
        drop(arena.shared.pool.lock().give_back(piece));
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
    let region = region_of(&arena, IoBuf::region(&buffer).unwrap()).unwrap();
    let (id, ptr, len) = (region.id(), region.ptr(), region.len());
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
            forked(arena.alloc(1)) && forked(arena.try_alloc(0)) && arena.alloc_staging(1, true).is_none(),
            matches!(arena.reserve(1), Err(Error::Forked)),
            region_of(&arena, id).is_none(),
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
        let Some(region) = IoBuf::region(&buffer).and_then(|id| region_of(&arena, id)) else { return 98 };
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
    Alloc { len: usize, purpose: Purpose },
    Free(prop::sample::Index),
    Register(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..3_usize, 1..64 * 1024_usize, 1..4 * MIB, 1..20 * MIB, Just(2 * MIB), Just(MIB)];
    let purpose = prop_oneof![8 => Just(Purpose::User), 1 => Just(Purpose::Staging), 1 => Just(Purpose::Beyond)];
    prop_oneof![
        6 => (len, purpose).prop_map(|(len, purpose)| Step::Alloc { len, purpose }),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        2 => any::<prop::sample::Index>().prop_map(Step::Register),
    ]
}

/// Stops a thread also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Beside a queue that registers some of the buffers, and gives back what it is asked for.
    #[test]
    fn buffers_never_overlap_all_room_can_be_had_and_all_memory_comes_back(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        const LIMIT: u64 = 24 << 20;
        let arena = Arena::new(LIMIT);
        let mapped = Arc::clone(&arena.shared.mapped);
        let worker = std::sync::Mutex::new(Worker::of(&arena));
        let inbox = Arc::clone(&worker.lock().unwrap().inboxes);
        let stop = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    if inbox[0].has_requests() {
                        drop(worker.lock().unwrap().remove());
                    }
                    thread::yield_now();
                }
            });
            let _stop = StopAtEnd(&stop);
            let mut held: Vec<(AlignedBuf, u8)> = Vec::new();
            let pages = |len: usize| len.next_multiple_of(page_size()) as u64;
            let taken = |held: &[(AlignedBuf, u8)], purpose| -> u64 {
                let of_purpose = held.iter().filter(|(buffer, _)| buffer.piece().unwrap().purpose() == purpose);
                of_purpose.map(|(buffer, _)| pages(buffer.len())).sum()
            };
            for (step, tag) in steps.into_iter().zip((1..=255).cycle()) {
                let (in_use, staging) = (taken(&held, Purpose::User), taken(&held, Purpose::Staging));
                prop_assert_eq!(arena.in_use(), in_use);
                prop_assert!(arena.mapped() <= LIMIT + taken(&held, Purpose::Beyond), "{} mapped", arena.mapped());
                match step {
                    Step::Alloc { len, purpose } => {
                        let fits = in_use + staging + pages(len) <= LIMIT;
                        let buffer = match purpose {
                            Purpose::User => arena.try_alloc(len).ok(),
                            _ => arena.alloc_staging(len, purpose == Purpose::Beyond),
                        };
                        let Some(mut buffer) = buffer else {
                            // Staging does not wait for the queue.
                            prop_assert!(purpose == Purpose::Staging || purpose == Purpose::User && !fits);
                            continue;
                        };
                        prop_assert!(fits || purpose == Purpose::Beyond && !buffer.is_within_limit());
                        prop_assert_eq!((buffer.len(), buffer.as_ptr().align_offset(page_size())), (len, 0));
                        buffer.fill(tag);
                        held.push((buffer, tag));
                    }
                    Step::Free(index) if !held.is_empty() => {
                        let (buffer, tag) = held.swap_remove(index.index(held.len()));
                        prop_assert!(buffer[..] == vec![tag; buffer.len()], "someone else wrote into a buffer");
                    }
                    Step::Register(index) if !held.is_empty() => {
                        let (buffer, _) = &held[index.index(held.len())];
                        if IoBuf::region(buffer).is_some() {
                            worker.lock().unwrap().register(&arena, buffer);
                        }
                    }
                    Step::Free(_) | Step::Register(_) => {}
                }
            }
            for (buffer, tag) in held {
                prop_assert!(buffer[..] == vec![tag; buffer.len()], "someone else wrote into a buffer");
            }
            Ok(())
        })?;
        prop_assert_eq!(arena.in_use(), 0);
        let free = arena.shared.pool.lock().free_ranges();
        for (id, range) in &free {
            prop_assert_eq!(range.len(), region_of(&arena, *id).unwrap().len(), "not one piece again");
        }
        prop_assert_eq!(free.iter().map(|(_, range)| range.len() as u64).sum::<u64>(), arena.mapped());
        drop((arena, worker));
        prop_assert_eq!(mapped.load(Ordering::Relaxed), 0);
    }
}
