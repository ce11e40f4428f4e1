//! One pass of one backend: fill memory, write it, overwrite it, read it back, compare.

use std::fs;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use aio::buf::AlignedBuf;
use aio::{AioConfig, AioHandle, Backend};
use xxhash_rust::xxh3::xxh3_64;

use super::groups;
use super::parallel::in_parallel;
use super::progress::Progress;
use super::report::{Done, Outcome};
use super::tensors::TensorSet;
use super::transfer::{Direction, Files, Transfer};
use crate::failure::Failure;
use crate::host::cpu::{Elapsed, Stopwatch};
use crate::host::limits;
use crate::host::resident::PeakWatch;
use crate::interrupt;
use crate::paths::Paths;
use crate::warm_up::warm_up;

/// Fills memory before tensors are read back: a read that did nothing must not find the right bytes.
const FORGOTTEN: u8 = 0xa5;

/// What is the same in every pass.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a AioConfig,
    pub(crate) set: &'a TensorSet,
    pub(crate) groups: &'a [Range<usize>],
    pub(crate) files: Files<'a>,
    pub(crate) progress: &'a Progress,
}

/// What a group holds.
struct Hold {
    handle: AioHandle,
    memory: Vec<AlignedBuf>,
    /// What the engine did to warm up.
    warm_up: Paths,
}

impl Hold {
    /// Frees it, and notes what the engine did.
    fn end(self, done: &mut Done) -> Result<(), Failure> {
        drop(self.memory);
        // The counts are complete once the threads have ended.
        self.handle.clone().close()?;
        done.paths += Paths::from(self.handle.stats()).since(&self.warm_up);
        Ok(())
    }
}

impl Pass<'_> {
    /// Runs the pass on `backend`, and removes its files.
    pub(crate) fn run(&self, backend: Backend) -> Outcome {
        let memory = PeakWatch::start();
        let mut done = Done::default();
        let outcome = match self.out_and_in(backend, &mut done) {
            Ok(()) => Outcome::Done(Done { memory: memory.stop(self.buffer_bytes()), ..done }),
            Err(Failure::Interrupted(_)) => Outcome::Interrupted(done),
            Err(failure) => Outcome::Failed(failure.to_string()),
        };
        self.files.remove(self.groups);
        outcome
    }

    /// Swaps all tensors out and in. On failure, `done` has what was done until then.
    fn out_and_in(&self, backend: Backend, done: &mut Done) -> Result<(), Failure> {
        let mut hashes = vec![0; self.set.tensors.len()];
        let mut kept = None;
        let mut total = Elapsed::default();
        for group in self.groups {
            let Hold { handle, mut memory, warm_up } = self.hold(backend, group, done)?;
            self.progress.stage("filling memory");
            self.load(group, &mut memory, &mut hashes[group.clone()])?;
            self.progress.stage("swapping out");
            let (elapsed, memory) = self.transfer(&handle, group).run(Direction::Out, memory)?;
            total += elapsed;
            let hold = Hold { handle, memory, warm_up };
            // A single group keeps its memory; several have no room beside each other.
            if self.groups.len() == 1 { kept = Some(hold) } else { hold.end(done)? }
        }
        done.swap_out = Some(total);
        let mut total = Elapsed::default();
        for group in self.groups {
            let Hold { handle, mut memory, warm_up } =
                kept.take().map_or_else(|| self.hold(backend, group, done), Ok)?;
            self.forget(&mut memory)?;
            self.progress.stage("swapping in");
            let (elapsed, mut memory) = self.transfer(&handle, group).run(Direction::In, memory)?;
            total += elapsed;
            self.progress.stage("verifying");
            self.verify(group, &mut memory, &hashes[group.clone()], done)?;
            Hold { handle, memory, warm_up }.end(done)?;
        }
        done.swap_in = Some(total);
        Ok(())
    }

    fn transfer<'b>(&'b self, handle: &'b AioHandle, group: &'b Range<usize>) -> Transfer<'b> {
        Transfer { files: self.files, handle, group, progress: self.progress }
    }

    /// Starts an engine and allocates a buffer for each tensor of a group, all warmed up.
    fn hold(&self, backend: Backend, group: &Range<usize>, done: &mut Done) -> Result<Hold, Failure> {
        self.progress.stage("getting memory");
        let watch = Stopwatch::start();
        let mut config = self.config.clone();
        config.arena_limit = Some(groups::memory(&self.sizes(group)));
        let handle = aio::builder().config(config).backend(backend).build()?;
        done.backend = handle.backend_name();
        let memory = self.allocate(&handle, group)?;
        let memory = self.warm_up(&handle, memory)?;
        done.setup += watch.stop();
        let warm_up = handle.stats().into();
        Ok(Hold { handle, memory, warm_up })
    }

    fn warm_up(&self, handle: &AioHandle, memory: Vec<AlignedBuf>) -> Result<Vec<AlignedBuf>, Failure> {
        let path = self.files.folder.join("warm-up");
        let file = handle.create(&path)?;
        file.write_at(&vec![0; usize::try_from(limits::page_size()).unwrap_or(4096)], 0)?;
        let memory = warm_up(&file, memory)?;
        file.close()?;
        // The folder's removal takes it otherwise.
        let _ = fs::remove_file(path);
        Ok(memory)
    }

    fn sizes(&self, group: &Range<usize>) -> Vec<u64> {
        self.set.tensors[group.clone()].iter().map(|tensor| tensor.bytes).collect()
    }

    /// Memory for data. Groups follow each other, so it is that of the largest.
    fn buffer_bytes(&self) -> u64 {
        self.groups.iter().map(|group| self.sizes(group).iter().sum()).max().unwrap_or(0)
    }

    /// Allocates a buffer per tensor, the largest first, so that small ones fill the gaps.
    fn allocate(&self, handle: &AioHandle, group: &Range<usize>) -> Result<Vec<AlignedBuf>, Failure> {
        let tensors = &self.set.tensors[group.clone()];
        let mut by_size: Vec<_> = (0..tensors.len()).collect();
        by_size.sort_by_key(|&index| std::cmp::Reverse(tensors[index].bytes));
        let mut buffers: Vec<_> = tensors.iter().map(|_| None).collect();
        for index in by_size {
            interrupt::check()?;
            let bytes = usize::try_from(tensors[index].bytes).unwrap_or(usize::MAX);
            buffers[index] = Some(handle.arena().try_alloc(bytes)?);
        }
        Ok(buffers.into_iter().flatten().collect())
    }

    fn load(&self, group: &Range<usize>, memory: &mut [AlignedBuf], hashes: &mut [u64]) -> Result<(), Failure> {
        let tensors = &self.set.tensors[group.clone()];
        in_parallel(tensors.iter().zip(memory).zip(hashes), |((tensor, buffer), hash)| {
            *hash = self.set.load(tensor, buffer)?;
            Ok(())
        })
    }

    fn forget(&self, memory: &mut [AlignedBuf]) -> Result<(), Failure> {
        in_parallel(memory.iter_mut(), |buffer| {
            buffer.fill(FORGOTTEN);
            Ok(())
        })
    }

    fn verify(
        &self,
        group: &Range<usize>,
        memory: &mut [AlignedBuf],
        hashes: &[u64],
        done: &mut Done,
    ) -> Result<(), Failure> {
        let tensors = &self.set.tensors[group.clone()];
        let differing = Mutex::new(Vec::new());
        in_parallel(tensors.iter().zip(memory).zip(hashes), |((tensor, buffer), hash)| {
            if xxh3_64(buffer) != *hash {
                differing.lock().unwrap_or_else(PoisonError::into_inner).push(tensor.name.clone());
            }
            Ok(())
        })?;
        let differing = differing.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.verified += tensors.len() - differing.len();
        done.differing.extend(differing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Layout;

    /// Runs `test` with five tensors that need three groups.
    fn with_pass(layout: Layout, test: impl FnOnce(&Pass<'_>)) {
        let (set, folder) = (TensorSet::uniform(5, 10_001), tempfile::tempdir().unwrap());
        let config = AioConfig::default();
        test(&Pass {
            config: &config,
            set: &set,
            groups: &[0..2, 2..4, 4..5],
            files: Files { folder: folder.path(), layout },
            progress: &Progress::new(0),
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_set_in_groups_comes_back_whole() {
        for layout in [Layout::Files, Layout::Extents] {
            with_pass(layout, |pass| match pass.run(Backend::Pthread) {
                Outcome::Done(done) => {
                    assert_eq!((done.backend, done.verified, done.differing.len()), ("pthread", 5, 0));
                    assert_eq!(done.paths.bytes(), 2 * 5 * 10_001, "{:?}", done.paths);
                    // Other tests of this process can cause or reset the peak.
                    assert!(done.memory.is_none_or(|memory| memory.buffer_bytes == 2 * 10_001));
                }
                other => panic!("{other:?}"),
            });
        }
    }

    #[test]
    fn a_tensor_that_came_back_different_is_named() {
        with_pass(Layout::Files, |pass| {
            let (group, mut done) = (2..4, Done::default());
            let Hold { mut memory, .. } = pass.hold(Backend::Pthread, &group, &mut done).unwrap();
            let mut hashes = [0; 2];
            pass.load(&group, &mut memory, &mut hashes).unwrap();
            memory[1][10_000] ^= 1;
            pass.verify(&group, &mut memory, &hashes, &mut done).unwrap();
            assert_eq!((done.verified, done.differing), (1, vec!["tensor.3".to_owned()]));
        });
    }

    #[test]
    fn a_read_that_does_nothing_would_be_noticed() {
        with_pass(Layout::Files, |pass| {
            let (group, mut done) = (0..2, Done::default());
            let Hold { mut memory, .. } = pass.hold(Backend::Pthread, &group, &mut done).unwrap();
            let mut hashes = [0; 2];
            pass.load(&group, &mut memory, &mut hashes).unwrap();
            pass.forget(&mut memory).unwrap();
            pass.verify(&group, &mut memory, &hashes, &mut done).unwrap();
            assert_eq!(done.verified, 0);
        });
    }

    #[test]
    fn a_write_that_fails_is_the_outcome_of_its_backend() {
        for (layout, name) in [(Layout::Files, "000003.tensor"), (Layout::Extents, "000002.tensors")] {
            with_pass(layout, |pass| {
                fs::write(pass.files.folder.join(name), b"precious").unwrap();
                match pass.run(Backend::Pthread) {
                    Outcome::Failed(reason) => assert!(reason.contains(name), "{reason}"),
                    other => panic!("{other:?}"),
                }
            });
        }
    }
}
