//! The timed parts: move a group of tensors from memory to files, and back, in one of two layouts.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aio::buf::AlignedBuf;
use aio::{AioHandle, OpenOptions, Ticket};

use super::progress::Progress;
use crate::cli::Layout;
use crate::failure::Failure;
use crate::host::cpu::{Elapsed, Stopwatch};
use crate::host::limits;
use crate::interrupt;
use crate::paths::Paths;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

/// Paths of the files that hold tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) layout: Layout,
}

/// The sizes of the files for a group of tensors of these `sizes`.
pub(crate) fn file_sizes(layout: Layout, sizes: &[u64]) -> Vec<u64> {
    match layout {
        Layout::Files => sizes.to_vec(),
        Layout::Extents => vec![lay_out(sizes.iter().copied()).1],
    }
}

/// A group of tensors on its way.
pub(crate) struct Transfer<'a> {
    pub(crate) files: Files<'a>,
    pub(crate) handle: &'a AioHandle,
    pub(crate) group: &'a Range<usize>,
    pub(crate) progress: &'a Progress,
}

impl Transfer<'_> {
    /// Moves the group, and returns its memory in the same order. The time includes making or opening files, allocating
    /// their disk space, and closing them.
    pub(crate) fn run(
        &self,
        direction: Direction,
        memory: Vec<AlignedBuf>,
    ) -> Result<(Elapsed, Vec<AlignedBuf>), Failure> {
        match self.files.layout {
            Layout::Files => self.one_by_one(direction, memory),
            Layout::Extents => self.as_extents(direction, memory),
        }
    }

    /// Starts an op per tensor, each on its own file, and waits for all.
    fn one_by_one(
        &self,
        direction: Direction,
        memory: Vec<AlignedBuf>,
    ) -> Result<(Elapsed, Vec<AlignedBuf>), Failure> {
        let &Self { files, handle, group, progress } = self;
        let paths: Vec<_> = group.clone().map(|index| files.tensor(index)).collect();
        let mut returned = Vec::with_capacity(memory.len());
        let mut tickets = Vec::with_capacity(memory.len());
        let watch = Stopwatch::start();
        for (path, buffer) in paths.iter().zip(memory) {
            if let Err(interrupted) = interrupt::check() {
                return Err(give_up(tickets, interrupted));
            }
            tickets.push(match direction {
                Direction::Out => handle.write_new(path, buffer),
                Direction::In => handle.read_path(path, buffer),
            });
        }
        let mut tickets = tickets.into_iter();
        while let Some(ticket) = tickets.next() {
            match wait(ticket, || {}) {
                Ok(buffer) => {
                    progress.moved(buffer.len() as u64);
                    returned.push(buffer);
                }
                Err(failure) => return Err(give_up(tickets.collect(), failure)),
            }
        }
        Ok((watch.stop(), returned))
    }

    /// Starts one vectored op on one file.
    fn as_extents(
        &self,
        direction: Direction,
        memory: Vec<AlignedBuf>,
    ) -> Result<(Elapsed, Vec<AlignedBuf>), Failure> {
        let &Self { files, handle, group, progress } = self;
        let path = files.tensors(group.start);
        let (offsets, _) = lay_out(memory.iter().map(|buffer| buffer.len() as u64));
        let bytes: u64 = memory.iter().map(|buffer| buffer.len() as u64).sum();
        let extents: Vec<_> = offsets.into_iter().zip(memory).collect();
        let options = OpenOptions::new().read(true);
        let before = Paths::from(handle.stats()).bytes();
        let mut shown = 0;
        let show = || {
            let moved = Paths::from(handle.stats()).bytes().saturating_sub(before).clamp(shown, bytes.max(shown));
            progress.moved(moved - shown);
            shown = moved;
        };
        let watch = Stopwatch::start();
        let (file, ticket) = match direction {
            Direction::Out => {
                let file = handle.open_with(&path, &options.write(true).create_new(true))?;
                let ticket = file.write_vectored(extents);
                (file, ticket)
            }
            Direction::In => {
                let file = handle.open_with(&path, &options)?;
                let ticket = file.read_vectored(extents);
                (file, ticket)
            }
        };
        let extents = wait(ticket, show)?;
        file.close()?;
        let elapsed = watch.stop();
        progress.moved(bytes.saturating_sub(shown));
        Ok((elapsed, extents.into_iter().map(|(_, buffer)| buffer).collect()))
    }
}

impl Files<'_> {
    /// Numbered, as the names of tensors may not be valid file names.
    pub(crate) fn tensor(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.tensor"))
    }

    /// The file of a group, numbered after its first tensor.
    pub(crate) fn tensors(&self, first: usize) -> PathBuf {
        self.folder.join(format!("{first:06}.tensors"))
    }

    /// Removes the files of groups.
    pub(crate) fn remove(&self, groups: &[Range<usize>]) {
        // A file that was never written is missing; removing the folder reports what remains.
        match self.layout {
            Layout::Files => {
                groups.iter().flat_map(Range::clone).for_each(|index| drop(fs::remove_file(self.tensor(index))));
            }
            Layout::Extents => {
                groups.iter().for_each(|group| drop(fs::remove_file(self.tensors(group.start))));
            }
        }
    }
}

/// Offsets of tensors of these sizes in one file, and its length. Each begins on a page of its own.
fn lay_out(sizes: impl Iterator<Item = u64>) -> (Vec<u64>, u64) {
    let page = limits::page_size();
    let (mut offset, mut end) = (0_u64, 0);
    let offsets = sizes.map(|bytes| {
        let begin = offset;
        end = begin.saturating_add(bytes);
        offset = end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        begin
    });
    (offsets.collect(), end)
}

/// Waits for an op, and calls `meanwhile` now and then. A signal cancels the op.
fn wait<T>(ticket: Ticket<T>, mut meanwhile: impl FnMut()) -> Result<T, Failure> {
    while !ticket.wait_timeout(Duration::from_millis(100))? {
        if let Err(interrupted) = interrupt::check() {
            return Err(give_up(vec![ticket], interrupted));
        }
        meanwhile();
    }
    let moved = ticket.wait()?;
    interrupt::check()?;
    Ok(moved)
}

/// Cancels ops and drops their results; returns `failure`, the reason.
fn give_up<T>(tickets: Vec<Ticket<T>>, failure: Failure) -> Failure {
    tickets.iter().for_each(Ticket::cancel);
    tickets.into_iter().for_each(|ticket| drop(ticket.wait()));
    failure
}

#[cfg(test)]
mod tests {
    use aio::Backend;

    use super::*;

    #[test]
    fn tensors_of_one_file_share_no_page() {
        let page = limits::page_size();
        let sizes = [1, page, page + 1, 0, 5];
        let (offsets, end) = lay_out(sizes.into_iter());
        assert_eq!(offsets, [0, page, 2 * page, 4 * page, 4 * page]);
        assert_eq!(end, 4 * page + 5);
        assert_eq!(file_sizes(Layout::Extents, &sizes), [4 * page + 5]);
        assert_eq!(file_sizes(Layout::Files, &sizes), sizes);
        assert_eq!(file_sizes(Layout::Extents, &[u64::MAX, u64::MAX]), [u64::MAX]);
    }

    #[test]
    fn extents_are_one_file_with_each_tensor_in_its_place_and_one_op_each_way() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { folder: folder.path(), layout: Layout::Extents };
        let handle = aio::builder().backend(Backend::Pthread).build().unwrap();
        let memory = |byte: u8| -> Vec<_> {
            let sizes = [5000, 4096, 1];
            let filled = |(bytes, tensor): (usize, u8)| {
                let mut buffer = handle.alloc(bytes).unwrap();
                buffer.fill(byte + tensor);
                buffer
            };
            sizes.into_iter().zip(0..).map(filled).collect()
        };
        let (group, progress) = (7..10, Progress::new(0));
        let transfer = Transfer { files, handle: &handle, group: &group, progress: &progress };
        drop(transfer.run(Direction::Out, memory(1)).unwrap());

        let page = usize::try_from(limits::page_size()).unwrap();
        let written = fs::read(files.tensors(7)).unwrap();
        let second = 5000_usize.next_multiple_of(page);
        let third = second + page;
        assert_eq!(written.len(), third + 1);
        assert!(written[..5000] == [1; 5000] && written[second..second + 4096] == [2; 4096] && written[third] == 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let read = transfer.run(Direction::In, memory(100)).unwrap().1;
        assert!(read[0][..] == [1; 5000] && read[1][..] == [2; 4096] && read[2][..] == [3]);
        assert_eq!(handle.stats().ops, 2);
        files.remove(std::slice::from_ref(&group));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
