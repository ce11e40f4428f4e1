//! The standard library: blocking calls through the page cache, on one thread or on several.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::compare::contender::{Contender, PAGE_CACHE, failed, timed};
use crate::compare::model::Model;
use crate::compare::plan::{LARGE, Start};
use crate::compare::work::Work;
use aio_cli::failure::{Failure, no_thread};
use aio_cli::generate;
use aio_cli::host::cpu::Elapsed;
use aio_cli::interrupt;

/// The name in tables.
pub(crate) fn name(threads: usize) -> String {
    match threads {
        1 => "std::fs".to_owned(),
        threads => format!("std::fs, {threads} threads"),
    }
}

/// Numbers of threads to show: 1, 2, 4 and so on, and `most`.
pub(crate) fn counts(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |count: &usize| count.checked_mul(2));
    powers.take_while(|count| *count < most).chain([most]).collect()
}

/// Splits the blocks into as many equal parts as there are threads.
pub(crate) struct StdFs {
    threads: usize,
}

impl StdFs {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads }
    }
}

impl Contender for StdFs {
    fn note(&self) -> Option<&'static str> {
        Some(PAGE_CACHE)
    }

    fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
        let mut memory = vec![vec![0; work.spec.block]; self.threads];
        memory.iter_mut().for_each(|memory| generate::fill(memory, 1));
        let part = work.order().len().div_ceil(self.threads);
        timed(|| {
            let one = if work.spec.file_per_block { None } else { Some(open(work, &work.files()[0])?) };
            let one = one.as_ref();
            thread::scope(|scope| {
                let parts = work.order().chunks(part).zip(&mut memory);
                let threads = parts.map(|(blocks, memory)| {
                    let part = move || go_through(work, one, blocks, memory);
                    thread::Builder::new().spawn_scoped(scope, part).map_err(no_thread)
                });
                let threads = threads.collect::<Result<Vec<_>, _>>()?;
                let ended =
                    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(failed("a panic"))));
                ended.collect::<Result<(), _>>()
            })?;
            match one {
                Some(file) if work.spec.durable => file.sync_all().map_err(failed),
                _ => Ok(()),
            }
        })
    }

    fn run_model(&mut self, model: &Model) -> Result<Elapsed, Failure> {
        if model.saves() {
            return timed(|| self.save(model));
        }
        let mut memory = model.fresh_memory()?;
        let elapsed = timed(|| {
            let files = model.shards().iter().map(File::open).collect::<Result<Vec<_>, _>>().map_err(failed)?;
            let parts = files.iter().zip(&mut memory).flat_map(|(file, memory)| {
                memory.chunks_mut(LARGE).zip(0..).map(move |(chunk, index)| (file, chunk, index * LARGE as u64))
            });
            self.each(parts, |(file, chunk, offset)| file.read_exact_at(chunk, offset).map_err(failed))
        })?;
        model.check(|tensor| memory[tensor.shard].get(tensor.range.clone()))?;
        Ok(elapsed)
    }
}

impl StdFs {
    /// Writes the files of the model, and syncs them and their folder.
    fn save(&self, model: &Model) -> Result<(), Failure> {
        let files = model.shards().iter().map(File::create_new).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let parts = files.iter().zip(model.images()).flat_map(|(file, image)| {
            image.chunks(LARGE).zip(0..).map(move |(chunk, index)| (file, chunk, index * LARGE as u64))
        });
        self.each(parts, |(file, chunk, offset)| file.write_all_at(chunk, offset).map_err(failed))?;
        self.each(files.iter(), |file| file.sync_all().map_err(failed))?;
        File::open(model.folder()).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Does this with each of the parts, of which each thread takes the next one.
    fn each<T>(
        &self,
        parts: impl Iterator<Item = T> + Send,
        work: impl Fn(T) -> Result<(), Failure> + Sync,
    ) -> Result<(), Failure> {
        let parts = Mutex::new(parts);
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let take = || {
            while let Some(part) = next() {
                interrupt::check()?;
                work(part)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads =
                (0..self.threads).map(|_| thread::Builder::new().spawn_scoped(scope, take).map_err(no_thread));
            let threads = threads.collect::<Result<Vec<_>, _>>()?;
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(failed("a panic"))))
        })
    }
}

fn open(work: &Work, path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(work.spec.writes).create_new(work.spec.start == Start::New);
    options.open(path).map_err(failed)
}

fn go_through(work: &Work, one: Option<&File>, blocks: &[u64], memory: &mut [u8]) -> Result<(), Failure> {
    for &block in blocks {
        let (path, offset) = work.place(block);
        let own;
        let file = match one {
            Some(file) => file,
            None => {
                own = open(work, path)?;
                &own
            }
        };
        if work.spec.writes {
            work.stamp(block, memory)?;
            file.write_all_at(memory, offset).map_err(failed)?;
        } else {
            file.read_exact_at(memory, offset).map_err(failed)?;
            work.check(block, memory)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn numbers_of_threads_double_up_to_the_most() {
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(2), [1, 2]);
        assert_eq!(counts(8), [1, 2, 4, 8]);
        assert_eq!(counts(12), [1, 2, 4, 8, 12]);
    }
}
