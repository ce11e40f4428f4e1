//! `stats()` tells which way bytes went, and so proves that aligned means zero-copy.

mod support;

use aio::{AioHandle, Backend, DirectMode, Stats};
use support::{Folder, Memory, backends, pattern};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// What `run` adds to the counters.
fn counted(aio: &AioHandle, run: impl FnOnce()) -> Stats {
    let before = aio.stats();
    run();
    let mut counted = aio.stats();
    counted.ops -= before.ops;
    counted.blocks -= before.blocks;
    counted.bytes_direct -= before.bytes_direct;
    counted.bytes_staged -= before.bytes_staged;
    counted.bytes_buffered -= before.bytes_buffered;
    counted.bytes_fixed -= before.bytes_fixed;
    counted.retries -= before.retries;
    counted.short_transfers -= before.short_transfers;
    counted
}

/// The counters as `(ops, blocks, direct, staged, buffered, fixed)`; nothing else was counted.
#[track_caller]
fn assert_counted(counted: Stats, expected: (u64, u64, u64, u64, u64, u64)) {
    assert_eq!((counted.retries, counted.short_transfers, counted.in_flight), (0, 0, 0), "{counted:?}");
    let Stats { ops, blocks, bytes_direct, bytes_staged, bytes_buffered, bytes_fixed, .. } = counted;
    assert_eq!((ops, blocks, bytes_direct, bytes_staged, bytes_buffered, bytes_fixed), expected, "{counted:?}");
}

/// A handle on each backend, with 64 KiB blocks, and whether its queues take registered memory here.
fn each_direct(test: impl Fn(&AioHandle, &Folder, bool)) {
    for backend in backends() {
        let aio = aio::builder().backend(backend).block_size(64 << 10).build().unwrap();
        let folder = Folder::new();
        let file = aio.create(folder.path("probe")).unwrap();
        if !file.is_direct() {
            eprintln!("SKIPPED {backend}: no direct I/O on the file system of the temporary folder");
            continue;
        }
        let registers = backend.probe().unwrap().registered_memory && may_pin(32 << 20);
        if backend == Backend::COMPILED[0] && !registers {
            eprintln!("SKIPPED {backend}: memory cannot be registered here (RLIMIT_MEMLOCK)");
        }
        eprintln!("on {backend}");
        // Memory is registered when it is used again; a region is as a whole.
        let [mut own, mut staged] = [Memory::Arena(aio.alloc(MIB).unwrap()), Memory::odd(MIB)];
        for _ in 0..2 {
            own = file.write(own, 0).wait().unwrap();
            staged = file.write(staged, 0).wait().unwrap();
        }
        drop((own, staged));
        test(&aio, &folder, registers);
    }
}

/// Whether a queue may pin this much: as root, or by the limit.
fn may_pin(bytes: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills in the struct.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) }, 0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    const CAP_IPC_LOCK: u32 = 14;
    let capable = u64::from_str_radix(effective, 16).unwrap() >> CAP_IPC_LOCK & 1 == 1;
    capable || limit.rlim_cur >= bytes
}

/// `bytes` if `registers`, else nothing.
fn fixed(registers: bool, bytes: usize) -> u64 {
    if registers { bytes as u64 } else { 0 }
}

#[test]
fn an_aligned_op_in_arena_memory_is_all_direct_and_fixed() {
    each_direct(|aio, folder, registers| {
        let file = aio.create(folder.path("t")).unwrap();
        let fixed = fixed(registers, MIB);
        let mut buffer = aio.alloc(MIB).unwrap();
        buffer.copy_from_slice(&pattern(1, MIB));
        let mut slot = Some(buffer);
        let new = counted(aio, || slot = Some(file.write(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(new, (1, 16, MIB as u64, 0, 0, fixed));
        let over = counted(aio, || slot = Some(file.write(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(over, (1, 16, MIB as u64, 0, 0, fixed));
        let read = counted(aio, || slot = Some(file.read(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(read, (1, 16, MIB as u64, 0, 0, fixed));
        assert!(slot.unwrap()[..] == pattern(1, MIB)[..]);
        // The same memory, borrowed.
        let mut buffer = aio.alloc(MIB).unwrap();
        let scoped = counted(aio, || aio.scope(|scope| scope.read(&file, &mut buffer, 0)).unwrap());
        assert_counted(scoped, (1, 16, MIB as u64, 0, 0, fixed));
        // A path is opened by a worker, and is as direct.
        let by_path = counted(aio, || drop(aio.read_path(folder.path("t"), buffer).wait().unwrap()));
        assert_counted(by_path, (1, 16, MIB as u64, 0, 0, fixed));
    });
}

#[test]
fn memory_is_registered_when_it_is_used_again() {
    each_direct(|_, folder, registers| {
        let backend =
            aio::Backend::COMPILED.iter().find(|backend| backend.probe().is_ok_and(|found| found.registered_memory));
        let Some(&backend) = backend.filter(|_| registers) else { return };
        let aio = aio::builder().backend(backend).arena_limit(64 << 20).build().unwrap();
        let file = aio.create(folder.path("once")).unwrap();
        file.write(pattern(1, 8 * MIB), 0).wait().unwrap();
        let mut parts: Vec<_> = (0..8).map(|_| aio.alloc(MIB).unwrap()).collect();
        let pass = |parts: &mut Vec<_>| {
            for (at, part) in std::mem::take(parts).into_iter().enumerate() {
                parts.push(file.read(part, (at * MIB) as u64).wait().unwrap());
            }
        };
        let once = counted(&aio, || pass(&mut parts));
        assert_counted(once, (8, 8, 8 * MIB as u64, 0, 0, 0));
        let again = counted(&aio, || pass(&mut parts));
        assert_counted(again, (8, 8, 8 * MIB as u64, 0, 0, 8 * MIB as u64));
    });
}

#[test]
fn aligned_memory_of_the_users_own_is_direct_and_not_fixed() {
    each_direct(|aio, folder, _| {
        let file = aio.create(folder.path("t")).unwrap();
        let mut memory = vec![7; 128 * 1024 + PAGE];
        let shift = memory.as_ptr().align_offset(PAGE);
        let bytes = &mut memory[shift..shift + 128 * 1024];
        let wrote = counted(aio, || aio.scope(|scope| scope.write(&file, &*bytes, 0)).unwrap());
        assert_counted(wrote, (1, 2, 128 << 10, 0, 0, 0));
        let read = counted(aio, || aio.scope(|scope| scope.read(&file, &mut *bytes, 0)).unwrap());
        assert_counted(read, (1, 2, 128 << 10, 0, 0, 0));
        // On the caller's thread.
        let small = counted(aio, || file.read_at(&mut bytes[..64 << 10], 64 << 10).unwrap());
        assert_counted(small, (1, 1, 64 << 10, 0, 0, 0));
        let small = counted(aio, || file.write_at(&bytes[..64 << 10], 64 << 10).unwrap());
        assert_counted(small, (1, 1, 64 << 10, 0, 0, 0));
    });
}

#[test]
fn an_odd_address_is_all_staged_and_direct() {
    each_direct(|aio, folder, registers| {
        let file = aio.create(folder.path("t")).unwrap();
        let mut memory = Memory::odd(MIB);
        memory.bytes_mut().copy_from_slice(&pattern(2, MIB));
        let mut slot = Some(memory);
        // Staging buffers are arena memory, so what passes through them is fixed.
        let expected = (1, 16, MIB as u64, MIB as u64, 0, fixed(registers, MIB));
        let wrote = counted(aio, || slot = Some(file.write(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(wrote, expected);
        slot.as_mut().unwrap().bytes_mut().fill(0);
        let read = counted(aio, || slot = Some(file.read(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(read, expected);
        assert!(slot.unwrap().bytes() == pattern(2, MIB));
        // On the caller's thread, where there is no registered memory.
        let mut small = Memory::odd(PAGE);
        let read = counted(aio, || file.read_at(small.bytes_mut(), 0).unwrap());
        assert_counted(read, (1, 1, PAGE as u64, PAGE as u64, 0, 0));
    });
}

#[test]
fn an_odd_offset_is_buffered_at_its_edges_only() {
    each_direct(|aio, folder, registers| {
        let path = folder.file("t", &pattern(3, 2 * MIB));
        let file = aio.open(path).unwrap();
        let unit = file.alignment().offset as usize;
        for (offset, len) in [(1, MIB), (unit - 1, MIB), (512, 10 * unit), (unit, 3 * unit + 5), (5, unit), (7, 100)]
        {
            // The bytes of whole units, and the rest.
            let (first, end) = (offset.next_multiple_of(unit), (offset + len) / unit * unit);
            let direct = end.saturating_sub(first);
            let buffered = len - direct;
            let edges = [first.min(offset + len) - offset, (offset + len).saturating_sub(end.max(first))];
            let edges = if direct == 0 { 1 } else { edges.iter().filter(|edge| **edge > 0).count() };
            let blocks = (direct.div_ceil(64 << 10) + edges) as u64;
            let in_memory = offset.next_multiple_of(unit) - offset;
            // Memory that is off by as much as the file: the inner part needs no staging.
            let mut memory = aio.alloc(unit + len).unwrap();
            let at = if in_memory == 0 { 0 } else { unit - in_memory };
            let wrote = counted(aio, || {
                aio.scope(|scope| scope.write(&file, &memory[at..at + len], offset as u64)).unwrap();
            });
            assert_counted(wrote, (1, blocks, direct as u64, 0, buffered as u64, 0));
            let read = counted(aio, || {
                aio.scope(|scope| scope.read(&file, &mut memory[at..at + len], offset as u64)).unwrap();
            });
            assert_counted(read, (1, blocks, direct as u64, 0, buffered as u64, 0));
            // Arena memory from its start: what is direct is off by then, and staged if the device cares.
            let mut slot = Some(aio.alloc(len).unwrap());
            let staged = !(first - offset).is_multiple_of(file.alignment().memory as usize);
            let read = counted(aio, || slot = Some(file.read(slot.take().unwrap(), offset as u64).wait().unwrap()));
            let staged = if staged { direct as u64 } else { 0 };
            // The edges lie in registered memory as well.
            assert_counted(read, (1, blocks, direct as u64, staged, buffered as u64, fixed(registers, len)));
        }
    });
}

#[test]
fn vectored_ops_are_counted_extent_by_extent() {
    each_direct(|aio, folder, registers| {
        let file = aio.open(folder.file("t", &pattern(4, 2 * MIB))).unwrap();
        let unit = file.alignment().offset as usize;
        let extents = vec![
            (0, Memory::Arena(aio.alloc(4 * unit).unwrap())),
            (8 * unit as u64, Memory::odd(2 * unit)),
            (16 * unit as u64 + 10, Memory::Arena(aio.alloc(20).unwrap())),
        ];
        let read = counted(aio, || drop(file.read_vectored(extents).wait().unwrap()));
        let (direct, staged) = (6 * unit as u64, 2 * unit as u64);
        assert_counted(read, (1, 3, direct, staged, 20, fixed(registers, 6 * unit + 20)));
    });
}

#[test]
fn without_direct_io_all_is_buffered_and_nothing_staged() {
    for backend in backends() {
        let aio = aio::builder().backend(backend).block_size(64 << 10).direct(DirectMode::Off).build().unwrap();
        let folder = Folder::new();
        let file = aio.create(folder.path("t")).unwrap();
        assert!(!file.is_direct());
        let mut slot = Some(Memory::Arena(aio.alloc(MIB).unwrap()));
        let wrote = counted(&aio, || slot = Some(file.write(slot.take().unwrap(), 0).wait().unwrap()));
        // A copy goes through no queue, so its memory need not be registered with one.
        assert_counted(wrote, (1, 16, 0, 0, MIB as u64, 0));
        let mut slot = Some(Memory::odd(MIB));
        let read = counted(&aio, || slot = Some(file.read(slot.take().unwrap(), 0).wait().unwrap()));
        assert_counted(read, (1, 16, 0, 0, MIB as u64, 0));
        let small = counted(&aio, || file.read_at(&mut [0; 1000], 333).unwrap());
        assert_counted(small, (1, 1, 0, 0, 1000, 0));
    }
}

#[test]
fn validating_reads_back_directly() {
    each_direct(|aio, folder, registers| {
        let file = aio.create(folder.path("t")).unwrap().validated(true);
        let buffer = aio.alloc(MIB).unwrap();
        let wrote = counted(aio, || drop(file.write(buffer, 0).wait().unwrap()));
        assert_counted(wrote, (1, 32, 2 * MIB as u64, MIB as u64, 0, fixed(registers, 2 * MIB)));
    });
}

#[test]
fn memory_of_another_handle_is_as_good_as_any() {
    for backend in backends() {
        let [one, other] = [(); 2].map(|()| aio::builder().backend(backend).arena_limit(64 << 20).build().unwrap());
        let folder = Folder::new();
        let file = other.open(folder.file("t", &pattern(5, MIB))).unwrap();
        let foreign = one.alloc(MIB).unwrap();
        let own = other.alloc(MIB).unwrap();
        // Before and after the handle has memory of its own in use.
        let foreign = file.read(foreign, 0).wait().unwrap();
        assert!(foreign[..] == pattern(5, MIB)[..]);
        assert!(file.read(own, 0).wait().unwrap()[..] == pattern(5, MIB)[..]);
        let foreign = file.read(foreign, 0).wait().unwrap();
        assert!(foreign[..] == pattern(5, MIB)[..]);
        let counted = counted(&other, || drop(file.write(foreign, 0).wait().unwrap()));
        assert_eq!(counted.bytes_fixed, 0, "it is in no region of this handle");
    }
}
