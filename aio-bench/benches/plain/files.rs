//! Many small files, beside threads that open, transfer and close one after the other.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aio::{AioHandle, Backend};

use crate::side_by_side::{SideBySide, Work, numbers_of_threads};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub(crate) fn compare(lines: &mut SideBySide) {
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread] {
        let aio = aio::builder().backend(backend).build().expect("a handle");
        cold_reads(lines, &aio);
        resident_reads(lines, &aio);
        for count in [512, 4096] {
            new_files(lines, &aio, count);
        }
    }
}

/// All in one scope, into memory of the engine, which is what transfers fastest; the others have it, too.
fn cold_reads(lines: &mut SideBySide, aio: &AioHandle) {
    let count = lines.scaled(512, 16) as usize;
    let files: Vec<PathBuf> = (0..count).map(|i| lines.file(&format!("cold-{i}"), 64 * KIB as u64)).collect();
    let files = RefCell::new(files);
    let mut memory = aio.alloc(count * 64 * KIB).expect("memory");
    let mut plain = aio.alloc(count * 64 * KIB).expect("memory");
    let plain = RefCell::new(&mut plain[..]);
    let evicted = files.borrow().clone();
    lines.prepare_by(move || evicted.iter().for_each(|file| super::streams::evict(file)));
    let mut ours = || {
        let files = files.borrow();
        aio.scope(|scope| {
            files.iter().zip(memory.chunks_mut(64 * KIB)).for_each(|(file, chunk)| scope.read_path(file, chunk));
        })
        .expect("the bytes");
        (count * 64 * KIB) as u64
    };
    let read = |file: &Path, chunk: &mut [u8]| {
        let mut file = File::options().read(true).custom_flags(libc::O_DIRECT).open(file).expect("the file");
        file.read_exact(chunk).expect("the bytes");
    };
    let name = format!("{count} cold files of 64 KiB, {}", aio.backend_name());
    lines.line(&name, 0.9, &mut ours, &mut plain_threads(&files, &plain, &read));
    lines.prepare_by(|| ());
}

/// One after the other, each waited for.
fn resident_reads(lines: &mut SideBySide, aio: &AioHandle) {
    let path = lines.file("resident", MIB as u64);
    let count = lines.scaled(512, 4) as usize;
    let memory = RefCell::new(Some(vec![0; MIB]));
    let mut ours = || {
        for _ in 0..count {
            let buffer = memory.take().expect("given back");
            memory.replace(Some(aio.read_path(&path, buffer).wait().expect("the bytes")));
        }
        (count * MIB) as u64
    };
    let plain: Box<Work<'_>> = Box::new(|| {
        for _ in 0..count {
            let mut memory = memory.borrow_mut();
            let memory = memory.as_mut().expect("given back");
            File::open(&path).expect("the file").read_exact(memory).expect("the bytes");
        }
        (count * MIB) as u64
    });
    lines.line(&format!("resident file of 1 MiB, by path, {}", aio.backend_name()), 0.95, &mut ours, &mut [plain]);
}

fn new_files(lines: &mut SideBySide, aio: &AioHandle, count: u64) {
    let folder = lines.path(&format!("{count}-new-{}", aio.backend_name()));
    let count = lines.scaled(count, 16) as usize;
    let new = Rc::new(NewFiles::in_folder(folder, count));
    let memory = vec![7; 64 * KIB];
    let next = new.clone();
    lines.prepare_by(move || next.prepare());
    let mut ours = || {
        let files = new.files.borrow();
        aio.scope(|scope| files.iter().for_each(|file| scope.write_new(file, &memory[..])))
            .expect("room for the files");
        (count * 64 * KIB) as u64
    };
    let write = |file: &Path, chunk: &mut [u8]| {
        File::create_new(file).and_then(|mut file| file.write_all(chunk)).expect("room for the file");
    };
    let mut theirs = vec![7; count * 64 * KIB];
    let theirs = RefCell::new(&mut theirs[..]);
    let name = format!("{count} new files of 64 KiB, {}", aio.backend_name());
    lines.line(&name, 1.0, &mut ours, &mut plain_threads(&new.files, &theirs, &write));
    lines.prepare_by(|| ());
}

/// The paths of files that are not there yet, in an empty folder: another one each time. The old ones stay, without
/// their bytes: ext4 looks at every inode that was freed in the last minutes before it takes one for a new file.
struct NewFiles {
    parent: PathBuf,
    folders: Cell<usize>,
    files: RefCell<Vec<PathBuf>>,
}

impl NewFiles {
    fn in_folder(parent: PathBuf, count: usize) -> Self {
        fs::create_dir(&parent).expect("a folder");
        Self { parent, folders: Cell::new(0), files: RefCell::new(vec![PathBuf::new(); count]) }
    }

    /// Goes on with the next folder, which is on the disk.
    fn prepare(&self) {
        self.clear();
        let folder = self.parent.join(self.folders.replace(self.folders.get() + 1).to_string());
        fs::create_dir(&folder).expect("a folder");
        for (number, file) in self.files.borrow_mut().iter_mut().enumerate() {
            *file = folder.join(number.to_string());
        }
        nix::unistd::sync();
    }

    fn clear(&self) {
        for file in self.files.borrow().iter() {
            if let Ok(file) = File::options().write(true).open(file) {
                file.set_len(0).expect("an empty file");
            }
        }
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Each file with its part of the memory, on one plain thread, and on more.
fn plain_threads<'a>(
    files: &'a RefCell<Vec<PathBuf>>,
    memory: &'a RefCell<&mut [u8]>,
    transfer: &'a (impl Fn(&Path, &mut [u8]) + Sync),
) -> Vec<Box<Work<'a>>> {
    let on = |threads| -> Box<Work<'a>> {
        Box::new(move || on_threads(threads, &files.borrow(), memory.borrow_mut().chunks_mut(64 * KIB), transfer))
    };
    numbers_of_threads().map(on).collect()
}

/// Each file with its memory, on so many threads.
fn on_threads<'a>(
    threads: usize,
    files: &[PathBuf],
    chunks: impl Iterator<Item = &'a mut [u8]>,
    transfer: &(impl Fn(&Path, &mut [u8]) + Sync),
) -> u64 {
    let chunks: Vec<_> = chunks.map(|chunk| Mutex::new(Some(chunk))).collect();
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some((file, chunk)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            files.get(index).zip(chunks.get(index))
        } {
            let chunk = chunk.lock().expect("no panic").take().expect("taken once");
            transfer(file, chunk);
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
    (files.len() * 64 * KIB) as u64
}
