//! Durable blocks are written out before they complete: none of their pages is dirty then.
//!
//! Whether the device's cache was flushed as well cannot be told from here; that is the kernel's half of `RWF_DSYNC`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::conformance::rig::{Mode, PAGE, Rig, expect_pattern, open, pattern};
use crate::conformance::{Context, dirty_bytes, loud};
use crate::{Direction, FileId, IoBlock, Region, RegionId};

/// Blocks of each kind.
const BLOCKS: usize = 8;

/// Through the page cache, in every way that a queue may be told of memory and files.
pub(super) fn writes_leave_nothing_in_the_cache(context: &Context<'_>) {
    let mut config = crate::QueueConfig::new(4);
    (config.regions, config.files) = (1, 1);
    let path = context.filled("file", 1, BLOCKS * PAGE);
    let file = open(&path, Mode::Buffered).expect("open");
    let mut rig = Rig::with(context.backend, &config, BLOCKS * PAGE);
    if !tells_dirty_pages(context, &file, &mut rig) {
        return;
    }
    let (region, slot) =
        (Region::new(RegionId { slot: 0, generation: 0 }, rig.memory.clone()), FileId { slot: 0, generation: 0 });
    let region = rig.queue.add_region(&region).is_ok().then_some(region.id());
    let slot = rig.queue.add_file(slot, file.as_fd()).is_ok().then_some(slot);
    for (seed, (region, slot)) in (2..).zip([(None, None), (region, None), (None, slot), (region, slot)]) {
        rig.memory.put(0, &pattern(seed, 0, BLOCKS * PAGE));
        let blocks: Vec<_> =
            blocks(&rig, &file).map(|block| IoBlock { durable: true, region, file: slot, ..block }).collect();
        rig.run_all(&blocks);
        assert_eq!(dirty(&file).expect("asked before"), 0, "dirty pages after durable writes");
        expect_pattern("written", &std::fs::read(&path).expect("read"), seed, 0);
    }
    for block in blocks(&rig, &file) {
        // SAFETY: the memory is the rig's and nothing is in flight.
        let moved = unsafe { context.backend.transfer(&IoBlock { durable: true, ..block }) };
        assert_eq!(moved.expect("a durable write without a queue"), PAGE);
    }
    assert_eq!(dirty(&file).expect("asked before"), 0, "dirty pages after durable writes without a queue");
}

/// Small neighbours, which a backend may merge, of which every second is durable; and durable reads, which are reads.
pub(super) fn neighbours_of_both_kinds(context: &Context<'_>) {
    for mode in context.modes() {
        let path = context.filled("file", 1, BLOCKS * PAGE);
        let file = open(&path, mode).expect("open");
        let mut rig = Rig::new(context.backend, 16, BLOCKS * PAGE);
        for (seed, durable) in [(2, [true, false]), (3, [false, true]), (4, [true, true])] {
            rig.memory.put(0, &pattern(seed, 0, BLOCKS * PAGE));
            let mut all: Vec<_> = blocks(&rig, &file).collect();
            all.iter_mut().enumerate().for_each(|(index, block)| block.durable = durable[index % 2]);
            rig.run_all(&all);
            expect_pattern("written", &std::fs::read(&path).expect("read"), seed, 0);
            rig.memory.put(0, &[0; BLOCKS * PAGE]);
            all.iter_mut().for_each(|block| block.direction = Direction::Read);
            rig.run_all(&all);
            expect_pattern("read", &rig.memory.get(0, BLOCKS * PAGE), seed, 0);
        }
    }
}

/// A page each, one behind the other.
fn blocks(rig: &Rig, file: &File) -> impl Iterator<Item = IoBlock> {
    (0..BLOCKS).map(move |at| rig.block(Direction::Write, file, at as u64, at * PAGE, PAGE, (at * PAGE) as u64))
}

/// Bytes that are not on the device.
fn dirty(file: &File) -> io::Result<u64> {
    dirty_bytes(file, (BLOCKS * PAGE) as u64)
}

/// Whether a plain write leaves dirty pages here, and a sync none; said loudly if not.
fn tells_dirty_pages(context: &Context<'_>, file: &File, rig: &mut Rig) -> bool {
    let skip = |why: &dyn std::fmt::Display| {
        loud(format_args!("SKIPPED {}: what durable writes leave in the cache: {why}", context.backend.name()));
        false
    };
    // The kernel may write a page out at any time, but hardly ever at once.
    for _ in 0..100 {
        let plain: Vec<_> = blocks(rig, file).collect();
        rig.run_all(&plain);
        match dirty(file) {
            Err(error) => return skip(&format_args!("cachestat: {error}")),
            Ok(0) => {}
            Ok(_) => {
                file.sync_data().expect("sync");
                return dirty(file).is_ok_and(|dirty| dirty == 0) || skip(&"a sync leaves dirty pages");
            }
        }
    }
    skip(&"plain writes leave no dirty pages")
}
