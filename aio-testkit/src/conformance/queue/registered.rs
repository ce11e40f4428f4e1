//! Registered memory and files, for the backends that have them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::conformance::rig::{Memory, PAGE, Rig, expect_pattern, open, pattern};
use crate::conformance::{Context, loud};
use aio_core::backend::{FileId, IoBlock, QueueConfig, Region, RegionId};
use aio_core::op::Direction;

const REGIONS: u32 = 4;
const FILES: u32 = 4;

fn region_id(slot: u32) -> RegionId {
    RegionId { slot, generation: 1 }
}

fn rig(context: &Context<'_>, bytes: usize) -> Rig {
    let mut config = QueueConfig::new(16);
    config.regions = REGIONS;
    config.files = FILES;
    Rig::with(context.backend, &config, bytes)
}

/// Registers memory, or says loudly why not. What the probe promised may still be refused for want of memory.
fn add_region(context: &Context<'_>, rig: &mut Rig, region: &Region) -> bool {
    let promised = context.capabilities.registered_memory;
    match rig.queue.add_region(region) {
        Ok(()) => {
            assert!(promised, "a region was registered, which the probe denied");
            true
        }
        Err(error) if !promised => {
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "add_region of a backend without regions: {error}");
            false
        }
        Err(error) => {
            let refused = matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EPERM));
            assert!(refused, "add_region: {error}");
            loud(format_args!("SKIPPED {} with registered memory: {error}", context.backend.name()));
            false
        }
    }
}

fn add_file(context: &Context<'_>, rig: &mut Rig, id: FileId, file: &File) -> bool {
    let promised = context.capabilities.registered_files;
    match rig.queue.add_file(id, file.as_fd()) {
        Ok(()) => {
            assert!(promised, "a file was registered, which the probe denied");
            true
        }
        Err(error) => {
            assert!(!promised, "add_file: {error}");
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "add_file of a backend without files: {error}");
            false
        }
    }
}

pub(super) fn regions_move_the_right_bytes(context: &Context<'_>) {
    let half = 16 * PAGE;
    for mode in context.modes() {
        let path = context.folder.join(format!("{mode:?}"));
        let file = open(&path, mode).expect("open");
        let mut rig = rig(context, 2 * half);
        // The second id leaves a gap.
        let other = Arc::new(Memory::new(half));
        let regions = [Region::new(region_id(0), rig.memory.clone()), Region::new(region_id(3), other.clone())];
        for region in &regions {
            if !add_region(context, &mut rig, region) {
                return;
            }
        }
        // Blocks in the first region, in the second, and in the first without saying so.
        let blocks = |rig: &Rig, direction| {
            let block = |index: usize| {
                let at = index * PAGE;
                let block = rig.block(direction, &file, index as u64, at, PAGE, at as u64);
                match index % 3 {
                    0 => IoBlock { region: Some(region_id(0)), ..block },
                    1 => IoBlock { region: Some(region_id(3)), ptr: other.at(at, PAGE), ..block },
                    _ => block,
                }
            };
            (0..16).map(block).collect::<Vec<_>>()
        };
        rig.memory.put(0, &pattern(1, 0, half));
        other.put(0, &pattern(2, 0, half));
        let writes = blocks(&rig, Direction::Write);
        rig.run_all(&writes);
        let seed = |index: usize| if index % 3 == 1 { 2 } else { 1 };
        for (index, page) in fs::read(&path).expect("read").chunks(PAGE).enumerate() {
            expect_pattern("written", page, seed(index), (index * PAGE) as u64);
        }
        rig.memory.put(0, &vec![0xEE; half]);
        other.put(0, &vec![0xEE; half]);
        let reads = blocks(&rig, Direction::Read);
        rig.run_all(&reads);
        for index in 0..16 {
            let memory = if index % 3 == 1 { &other } else { &rig.memory };
            expect_pattern("read", &memory.get(index * PAGE, PAGE), seed(index), (index * PAGE) as u64);
        }
    }
}

/// A block may use the region after everybody else let go of it; with the queue it goes.
pub(super) fn regions_live_as_long_as_the_queue(context: &Context<'_>) {
    let mut rig = rig(context, PAGE);
    let memory = Arc::new(Memory::new(16 * PAGE));
    let watch = Arc::downgrade(&memory);
    if !add_region(context, &mut rig, &Region::new(region_id(0), memory)) {
        return;
    }
    assert!(watch.upgrade().is_some(), "the queue let go of a registered region");
    assert_eq!(rig.queue.drain(), 0);
    assert!(watch.upgrade().is_some(), "drain let go of a registered region");
    drop(rig);
    assert!(watch.upgrade().is_none(), "the queue is gone and its region is not");
}

/// And the queue goes on without it: blocks that name it go the plain way.
pub(super) fn regions_are_let_go_when_removed(context: &Context<'_>) {
    let file = open(&context.filled("file", 1, PAGE), context.slowest_mode()).expect("open");
    let mut rig = rig(context, PAGE);
    let memory = Arc::new(Memory::new(PAGE));
    let watch = Arc::downgrade(&memory);
    rig.queue.remove_region(region_id(1)).expect("remove_region of an empty slot");
    rig.queue.remove_region(region_id(u32::MAX)).expect("remove_region of a slot that never was");
    if !add_region(context, &mut rig, &Region::new(region_id(1), memory.clone())) {
        return;
    }
    // Used, too: what the last transfer holds must go as well.
    let block = rig.block(Direction::Read, &file, 1, 0, PAGE, 0);
    rig.run_all(&[IoBlock { region: Some(region_id(1)), ptr: memory.at(0, PAGE), ..block }]);
    expect_pattern("read", &memory.get(0, PAGE), 1, 0);
    drop(memory);
    // Of the region that had the slot before, so it must change nothing.
    rig.queue.remove_region(RegionId { generation: 0, ..region_id(1) }).expect("remove_region of a stale id");
    assert!(watch.upgrade().is_some(), "the queue let go of a registered region");
    rig.queue.remove_region(region_id(1)).expect("remove_region");
    assert!(watch.upgrade().is_none(), "the queue keeps a region that was removed");
    rig.run_all(&[IoBlock { region: Some(region_id(1)), ..block }]);
    expect_pattern("read by a stale id", &rig.memory.get(0, PAGE), 1, 0);
}

/// More often than there are slots. A block must not hit the region that has the slot by then.
pub(super) fn slots_of_removed_regions_are_used_again(context: &Context<'_>) {
    let file = open(&context.filled("file", 1, PAGE), context.slowest_mode()).expect("open");
    let mut rig = rig(context, PAGE);
    for generation in 0..3 * REGIONS {
        let id = RegionId { slot: 2, generation };
        let memory = Arc::new(Memory::new(PAGE));
        if !add_region(context, &mut rig, &Region::new(id, memory.clone())) {
            return;
        }
        let block = rig.block(Direction::Read, &file, 1, 0, PAGE, 0);
        rig.run_all(&[IoBlock { region: Some(id), ptr: memory.at(0, PAGE), ..block }]);
        expect_pattern("read", &memory.get(0, PAGE), 1, 0);
        // Names a region that is gone, in the slot of one that its memory does not lie in.
        rig.memory.put(0, &[0xEE; PAGE]);
        rig.run_all(&[IoBlock { region: Some(RegionId { slot: 2, generation: u32::MAX }), ..block }]);
        expect_pattern("read by a stale id", &rig.memory.get(0, PAGE), 1, 0);
        rig.queue.remove_region(id).expect("remove_region");
    }
}

pub(super) fn regions_beyond_the_room_are_refused(context: &Context<'_>) {
    let memory = Arc::new(Memory::new(PAGE));
    let region = |id| Region::new(region_id(id), memory.clone());
    let mut rig = rig(context, PAGE);
    for id in [REGIONS, REGIONS + 1, u32::MAX] {
        rig.queue.add_region(&region(id)).expect_err("an id beyond the room");
    }
    let mut without_room = Rig::new(context.backend, 1, PAGE);
    without_room.queue.add_region(&region(0)).expect_err("a region where there is room for none");
}

pub(super) fn files_move_the_right_bytes(context: &Context<'_>) {
    for mode in context.modes() {
        let files = [3, 0].map(|slot| {
            let path = context.filled(&format!("{mode:?}-{slot}"), u64::from(slot), 16 * PAGE);
            (FileId { slot, generation: 7 }, open(&path, mode).expect("open"), path)
        });
        let mut rig = rig(context, 16 * PAGE);
        for (id, file, _) in &files {
            if !add_file(context, &mut rig, *id, file) {
                return;
            }
        }
        // Reads of the first file, writes to the second, with and without its slot.
        let mut blocks = Vec::new();
        rig.memory.put(0, &pattern(9, 0, 16 * PAGE));
        for index in 0..16 {
            let (direction, (id, file, _)) =
                if index < 8 { (Direction::Read, &files[0]) } else { (Direction::Write, &files[1]) };
            let block = rig.block(direction, file, index as u64, index * PAGE, PAGE, (index * PAGE) as u64);
            blocks.push(IoBlock { file: (index % 4 != 3).then_some(*id), ..block });
        }
        rig.run_all(&blocks);
        expect_pattern("read", &rig.memory.get(0, 8 * PAGE), 3, 0);
        let content = fs::read(&files[1].2).expect("read");
        expect_pattern("kept", &content[..8 * PAGE], 0, 0);
        expect_pattern("written", &content[8 * PAGE..], 9, 8 * PAGE as u64);
        for (id, ..) in &files {
            rig.queue.remove_file(*id).expect("remove_file");
        }
    }
}

/// Takes the lock of an open file description. It goes when the last reference to that description is closed, the
/// kernel's included: so a second description can lock the file then and not earlier.
fn lock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: plain integers.
    match unsafe { libc::flock(file.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn expect_let_go(context: &Context<'_>, let_go: impl FnOnce(Rig, FileId) -> Option<Rig>) {
    let path = context.filled("file", 1, PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    let other = File::open(&path).expect("open");
    let id = FileId { slot: 1, generation: 2 };
    let mut rig = rig(context, PAGE);
    lock(&file, libc::LOCK_EX).expect("lock");
    if !add_file(context, &mut rig, id, &file) {
        return;
    }
    // Used, too: what the last transfer holds must go as well.
    let block = rig.block(Direction::Read, &file, 1, 0, PAGE, 0);
    rig.run_all(&[IoBlock { file: Some(id), ..block }]);
    drop(file);
    // Of the file that had the slot before, so it must change nothing.
    rig.queue.remove_file(FileId { generation: 1, ..id }).expect("remove_file of a stale id");
    let held = lock(&other, libc::LOCK_EX | libc::LOCK_NB).expect_err("the registered file was let go too early");
    assert_eq!(held.kind(), io::ErrorKind::WouldBlock, "lock: {held}");
    let _rig = let_go(rig, id);
    // The kernel may take a moment; a file that is never let go makes this hang.
    lock(&other, libc::LOCK_EX).expect("lock");
}

pub(super) fn files_are_let_go_when_removed(context: &Context<'_>) {
    expect_let_go(context, |mut rig, id| {
        rig.queue.remove_file(id).expect("remove_file");
        Some(rig)
    });
}

pub(super) fn files_are_let_go_with_the_queue(context: &Context<'_>) {
    expect_let_go(context, |_rig, _id| None);
}

/// A slot changes hands with and without a removal in between. A block, a removal or a registration that comes late
/// must not hit the file that has the slot by then.
pub(super) fn stale_files_are_not_the_new_ones(context: &Context<'_>) {
    for removed in [true, false] {
        let paths = [1, 2].map(|seed| context.filled(&format!("{removed}-{seed}"), seed, PAGE));
        let files = paths.each_ref().map(|path| open(path, context.slowest_mode()).expect("open"));
        let ids = [1, 2].map(|generation| FileId { slot: 2, generation });
        let mut rig = rig(context, PAGE);
        rig.queue.remove_file(ids[0]).expect("remove_file of an empty slot");
        if !add_file(context, &mut rig, ids[0], &files[0]) {
            return;
        }
        if removed {
            rig.queue.remove_file(ids[0]).expect("remove_file");
        }
        assert!(add_file(context, &mut rig, ids[1], &files[1]));
        rig.queue.remove_file(ids[0]).expect("remove_file of a stale id");
        rig.queue.add_file(ids[0], files[0].as_fd()).expect_err("a file in the slot of a newer one");

        // Goes by the descriptor.
        let stale = |block| IoBlock { file: Some(ids[0]), ..block };
        let read = rig.block(Direction::Read, &files[0], 1, 0, PAGE, 0);
        rig.run_all(&[stale(read)]);
        expect_pattern("read by a stale id", &rig.memory.get(0, PAGE), 1, 0);
        rig.memory.put(0, &pattern(3, 0, PAGE));
        rig.run_all(&[stale(IoBlock { direction: Direction::Write, ..read })]);
        expect_pattern("the old file", &fs::read(&paths[0]).expect("read"), 3, 0);
        expect_pattern("the new file", &fs::read(&paths[1]).expect("read"), 2, 0);

        // The new file is still registered.
        let block = rig.block(Direction::Read, &files[1], 2, 0, PAGE, 0);
        rig.run_all(&[IoBlock { file: Some(ids[1]), ..block }]);
        expect_pattern("read by the new id", &rig.memory.get(0, PAGE), 2, 0);
        rig.queue.remove_file(ids[1]).expect("remove_file");
        rig.queue.remove_file(ids[1]).expect("remove_file of a removed file");
    }
}

/// So a queue without files, or without this one, serves blocks that name it all the same.
pub(super) fn files_that_are_unknown_go_by_their_descriptor(context: &Context<'_>) {
    let path = context.filled("file", 1, 2 * PAGE);
    let file = open(&path, context.slowest_mode()).expect("open");
    for mut rig in [rig(context, 2 * PAGE), Rig::new(context.backend, 2, 2 * PAGE)] {
        let blocks = [0, u32::MAX].map(|slot| FileId { slot, generation: 0 }).into_iter().enumerate();
        let blocks: Vec<_> = blocks
            .map(|(at, id)| {
                let block = rig.block(Direction::Read, &file, at as u64, at * PAGE, PAGE, (at * PAGE) as u64);
                IoBlock { file: Some(id), ..block }
            })
            .collect();
        rig.run_all(&blocks);
        expect_pattern("read", &rig.memory.get(0, 2 * PAGE), 1, 0);
    }
}

pub(super) fn files_beyond_the_room_are_refused(context: &Context<'_>) {
    let file = open(&context.filled("file", 1, PAGE), context.slowest_mode()).expect("open");
    let mut rig = rig(context, PAGE);
    for slot in [FILES, FILES + 1, u32::MAX] {
        let id = FileId { slot, generation: 0 };
        rig.queue.add_file(id, file.as_fd()).expect_err("a slot beyond the room");
        rig.queue.remove_file(id).expect("remove_file of a slot that never was");
    }
    let mut without_room = Rig::new(context.backend, 1, PAGE);
    let id = FileId { slot: 0, generation: 0 };
    without_room.queue.add_file(id, file.as_fd()).expect_err("a file where there is room for none");
}
