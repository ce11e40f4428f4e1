//! Direct transfers of callers' memory in 4 KiB pages, beside those of memory from the arena.
//!
//! It takes `transparent_hugepage/enabled` as it is. With `always`, callers' memory has huge pages already; with
//! `never` (written into that file of /sys/kernel/mm) the lines show what the engine makes of it, and of the arena's, by
//! itself; `madvise` is what most systems have. `AIO_BACKEND=libaio` measures one backend alone.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use aio::buf::AlignedBuf;
use aio::{AioHandle, Backend, DirectMode};
use memmap2::MmapMut;

use crate::side_by_side::{SideBySide, Work};
use crate::streams::evict;

const OP: usize = 64 << 20;
/// So often memory that is used again was used before.
const USES: usize = 4;

/// What the caller did with the memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was never touched.
    Fresh,
    /// It was written to, and no op has used it.
    Touched,
    /// Ops have used it.
    Reused,
    /// The caller asked for huge pages.
    Huge,
}

/// A caller's memory.
struct Memory {
    map: MmapMut,
    used: bool,
}

impl Memory {
    /// Memory in that state, if an op has changed it.
    fn renew(&mut self, state: State, len: usize) {
        if self.used && matches!(state, State::Fresh | State::Touched) {
            // The old goes just before: a virtual machine that gives free memory back takes it anew slowly.
            self.map = MmapMut::map_anon(1).expect("memory");
            *self = Self { map: state.memory(len), used: false };
        }
    }
}

pub(crate) fn compare(lines: &mut SideBySide) {
    let len = lines.scaled(1 << 30, 8 << 20) as usize;
    let path = lines.file("pages", len as u64);
    let only = std::env::var(Backend::VARIABLE).ok();
    let is_wanted = |backend: &Backend| only.as_deref().is_none_or(|only| only == backend.name());
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread].into_iter().filter(is_wanted) {
        for (state, reads, wanted, what) in [
            (State::Huge, true, 0.95, "reads, memory in huge pages"),
            (State::Fresh, true, 0.9, "reads, fresh memory"),
            (State::Touched, true, 0.7, "reads, touched memory, first use"),
            (State::Reused, true, 0.95, "reads, memory used again"),
            (State::Huge, false, 0.95, "overwrites, memory in huge pages"),
            (State::Touched, false, 0.7, "overwrites, touched memory, first use"),
            (State::Reused, false, 0.95, "overwrites, memory used again"),
        ] {
            let aio = aio::builder().backend(backend).direct(DirectMode::On).build().expect("a handle");
            let memory = Rc::new(RefCell::new(Memory { map: state.memory(len), used: false }));
            let (next, cached) = (memory.clone(), path.clone());
            lines.prepare_by(move || {
                evict(&cached);
                next.borrow_mut().renew(state, len);
            });
            let mut arena: Vec<AlignedBuf> =
                (0..len).step_by(OP).map(|at| aio.alloc(OP.min(len - at)).expect("memory")).collect();
            let mut ours = || {
                let mut memory = memory.borrow_mut();
                memory.used = true;
                transfer(&aio, &path, reads, memory.map.chunks_mut(OP))
            };
            for _ in 0..if state == State::Reused { USES } else { 0 } {
                evict(&path);
                ours();
            }
            let from_arena: Box<Work<'_>> = Box::new(|| transfer(&aio, &path, reads, arena.iter_mut()));
            lines.line(&format!("{what}, {backend}"), wanted, &mut ours, &mut [from_arena]);
        }
    }
    lines.prepare_by(|| ());
}

impl State {
    fn memory(self, len: usize) -> MmapMut {
        let mut memory = MmapMut::map_anon(len).expect("memory");
        if self == Self::Huge {
            aio::buf::use_huge_pages(&mut memory[..]);
        }
        if self != Self::Fresh {
            memory.fill(7);
        }
        memory
    }
}

fn transfer<B: aio::buf::IoBufMut>(
    aio: &AioHandle,
    path: &Path,
    reads: bool,
    memory: impl Iterator<Item = B>,
) -> u64 {
    let file = if reads { aio.open(path) } else { aio.create(path) }.expect("the file");
    let mut offset = 0;
    aio.scope(|scope| {
        for chunk in memory {
            let len = chunk.byte_len() as u64;
            if reads {
                scope.read(&file, chunk, offset);
            } else {
                scope.write(&file, chunk, offset);
            }
            offset += len;
        }
    })
    .expect("the bytes");
    offset
}
