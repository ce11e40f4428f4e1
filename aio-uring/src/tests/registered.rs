//! Registered memory and files: that they are used, that they are not needed, and that they are given back.

use std::os::fd::AsFd;

use aio_core::backend::FileId;

use super::*;

#[test]
fn blocks_in_regions_take_the_fixed_path() {
    for backend in rungs() {
        let file = direct_file(8 * PAGE);
        let (first, second) = (Arc::new(Memory::new(8 * PAGE)), Arc::new(Memory::new(8 * PAGE)));
        let mut queue = open(&backend, &config(8));
        queue.add_region(&region(0, &first)).unwrap();
        queue.add_region(&region(3, &second)).unwrap();
        let mut blocks = reads(&file, &second, 8, PAGE);
        blocks.iter_mut().for_each(|block| block.region = Some(region_id(3)));
        // The plain path would not care, the fixed one looks whether the memory is in the region.
        blocks[5].region = Some(region_id(0));
        submit(&mut queue, &blocks);
        assert!(queue.in_flight() > 1);
        for (token, result) in reap_all(&mut queue) {
            assert_eq!(result, if token == 5 { Err(libc::EFAULT) } else { Ok(PAGE) });
        }
        assert!(second.bytes()[6 * PAGE..] == pattern(6 * PAGE, 2 * PAGE));
        // And the other way.
        second.fill(0x77);
        blocks.iter_mut().for_each(|block| block.direction = Direction::Write);
        submit(&mut queue, &blocks);
        for (token, result) in reap_all(&mut queue) {
            assert_eq!(result, if token == 5 { Err(libc::EFAULT) } else { Ok(PAGE) });
        }
        submit(&mut queue, &reads(&file, &first, 8, PAGE));
        reap_all(&mut queue);
        assert!(first.bytes()[4 * PAGE..5 * PAGE].iter().all(|byte| *byte == 0x77));
        assert!(first.bytes()[5 * PAGE..6 * PAGE] == pattern(5 * PAGE, PAGE));
    }
}

#[test]
fn blocks_of_registered_files_take_the_fixed_path() {
    for backend in rungs() {
        let file = direct_file(PAGE);
        let memory = Memory::new(4 * PAGE);
        let mut queue = open(&backend, &config(4));
        let id = FileId { slot: 2, generation: 5 };
        queue.add_file(id, file.as_fd()).unwrap();
        // No plain descriptor to fall back to: what reads, reads through the slot.
        let read = |token, slot, generation| {
            let mut read = block(token, Direction::Read, &file, &memory, token as usize * PAGE, PAGE, 0);
            read.fd = -1;
            read.file = Some(FileId { slot, generation });
            read
        };
        let blocks = [read(0, 2, 5), read(1, 2, 4), read(2, 2, 6), read(3, 0, 0)];
        submit(&mut queue, &blocks);
        assert_eq!(queue.in_flight(), 4);
        let stale = Err(libc::EBADF);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE)), (1, stale), (2, stale), (3, stale)]);
        assert!(memory.bytes()[..PAGE] == pattern(0, PAGE));

        // An older or unknown id changes nothing.
        queue.remove_file(FileId { slot: 2, generation: 4 }).unwrap();
        queue.remove_file(FileId { slot: 1, generation: 0 }).unwrap();
        queue.remove_file(FileId { slot: 99, generation: 0 }).unwrap();
        submit(&mut queue, &[read(0, 2, 5)]);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
        queue.remove_file(id).unwrap();
        submit(&mut queue, &[read(0, 2, 5)]);
        assert_eq!(reap_all(&mut queue), [(0, stale)]);
    }
}

#[test]
fn a_file_of_another_generation_goes_by_its_descriptor() {
    for backend in rungs() {
        let (old, new) = (direct_file(PAGE), direct_file(2 * PAGE));
        let memory = Memory::new(2 * PAGE);
        let mut queue = open(&backend, &config(2));
        queue.add_file(FileId { slot: 0, generation: 0 }, old.as_fd()).unwrap();
        let mut read = block(0, Direction::Read, &new, &memory, 0, PAGE, PAGE as u64);
        read.file = Some(FileId { slot: 0, generation: 1 });
        submit(&mut queue, &[read]);
        // The old file ends there: had the slot been used, nothing would have been read.
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
        assert!(memory.bytes()[..PAGE] == pattern(PAGE, PAGE));

        queue.add_file(FileId { slot: 0, generation: 1 }, new.as_fd()).unwrap();
        read.fd = -1;
        submit(&mut queue, &[read]);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
        // A late removal of the old file must not take the new one's slot.
        queue.remove_file(FileId { slot: 0, generation: 0 }).unwrap();
        submit(&mut queue, &[read]);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
        let late = queue.add_file(FileId { slot: 0, generation: 0 }, old.as_fd()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::AlreadyExists);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_goes_the_plain_way() {
    for backend in rungs() {
        let file = direct_file(PAGE);
        let memory = Arc::new(Memory::new(PAGE));
        for config in [QueueConfig::new(1), config(1)] {
            let mut queue = open(&backend, &config);
            let places = config.regions;
            let error = queue.add_region(&region(places, &memory)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            let id = FileId { slot: config.files, generation: 0 };
            assert_eq!(queue.add_file(id, file.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            let mut read = block(0, Direction::Read, &file, &memory, 0, PAGE, 0);
            (read.region, read.file) = (Some(region_id(places)), Some(id));
            submit(&mut queue, &[read]);
            assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
        }
        let mut queue = open(&backend, &config(1));
        queue.add_region(&region(0, &memory)).unwrap();
        assert_eq!(queue.add_region(&region(0, &memory)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let over_a_gib = Region::new(region_id(1), Arc::new(Claimed((1 << 30) + PAGE)));
        assert_eq!(queue.add_region(&over_a_gib).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

/// Memory that is refused for its length before anybody looks at it.
#[derive(Debug)]
struct Claimed(usize);

// SAFETY: breaks the contract on purpose, in a test that shows that the memory is not touched.
unsafe impl RegionMemory for Claimed {
    fn ptr(&self) -> *mut u8 {
        std::ptr::without_provenance_mut(PAGE)
    }

    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn tables_larger_than_the_kernel_has_leave_a_queue_that_works() {
    for backend in rungs() {
        let file = direct_file(PAGE);
        let memory = Arc::new(Memory::new(PAGE));
        let mut config = QueueConfig::new(1);
        (config.regions, config.files) = (u32::MAX, u32::MAX);
        let mut queue = open(&backend, &config);
        // Of each as many as the kernel allows.
        assert!(queue.tables.has_room_for_regions() && queue.tables.has_room_for_files());
        let id = FileId { slot: 0, generation: 0 };
        assert_eq!(queue.tables.places_for_regions(), 0, "an idle queue needs none");
        queue.add_region(&region(0, &memory)).unwrap();
        assert!(queue.tables.places_for_regions() < 16);
        queue.add_file(id, file.as_fd()).unwrap();
        assert!(queue.add_region(&region(u32::MAX - 1, &memory)).is_err());
        assert!(queue.add_file(FileId { slot: u32::MAX - 1, generation: 0 }, file.as_fd()).is_err());
        let mut read = block(0, Direction::Read, &file, &memory, 0, PAGE, 0);
        (read.fd, read.region, read.file) = (-1, Some(region_id(0)), Some(id));
        submit(&mut queue, &[read]);
        assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
    }
}

/// At once, not some time after the ring is closed. A file is a pipe here, because a pipe tells when its last writer is
/// gone.
#[test]
fn a_removed_file_is_let_go() {
    for backend in rungs() {
        for remove in [true, false] {
            let (reader, writer) = io::pipe().unwrap();
            let mut queue = open(&backend, &config(1));
            let id = FileId { slot: 0, generation: 0 };
            queue.add_file(id, writer.as_fd()).unwrap();
            drop(writer);
            let writers = || {
                let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one live pollfd.
                unsafe { libc::poll(&mut poll, 1, 0) };
                poll.revents & libc::POLLHUP == 0
            };
            assert!(writers());
            if remove {
                queue.remove_file(id).unwrap();
                assert!(!writers());
            }
            drop(queue);
            assert!(!writers());
        }
    }
}

/// Capabilities belong to threads: this one gives up the right to lock any amount of memory.
#[test]
fn memory_that_may_not_be_locked_goes_unregistered() {
    for backend in rungs() {
        std::thread::spawn(move || {
            if !give_up_ipc_lock() {
                skip(format_args!("a test of RLIMIT_MEMLOCK: capset(2) is refused"));
                return;
            }
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: one live rlimit.
            unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
            if limit.rlim_cur > 1 << 30 {
                skip(format_args!("a test of RLIMIT_MEMLOCK: it is {}", limit.rlim_cur));
                return;
            }
            let limit = limit.rlim_cur as usize;
            let too_much = Arc::new(Memory::new(limit + PAGE));
            let file = direct_file(PAGE);
            let mut queue = open(&backend, &config(1));
            let refusal = queue.add_region(&region(0, &too_much)).unwrap_err();
            assert_eq!(refusal.raw_os_error(), Some(libc::ENOMEM));
            submit(&mut queue, &reads(&file, &too_much, 1, PAGE));
            assert_eq!(reap_all(&mut queue), [(0, Ok(PAGE))]);
            drop(queue);
            // More than half of what there is, again and again: dropping a queue gives it back at once.
            let most = Arc::new(Memory::new((limit / 8 * 5).next_multiple_of(PAGE)));
            for _ in 0..16 {
                open(&backend, &config(1)).add_region(&region(0, &most)).unwrap();
            }
        })
        .join()
        .unwrap();
    }
}

fn give_up_ipc_lock() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    const IPC_LOCK: u32 = 14;
    let mut header = [VERSION_3, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: a header of version 3 goes with two sets of three words, all live.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) != 0 {
            return false;
        }
        sets[0][0] &= !(1 << IPC_LOCK);
        libc::syscall(libc::SYS_capset, &raw mut header, &raw mut sets) == 0
    }
}
