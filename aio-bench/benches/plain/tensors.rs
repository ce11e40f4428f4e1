//! Loading and saving safetensors files, beside plain threads and fio.
//!
//! A load takes fresh memory each time, which all sides have alike: huge pages of the arena (the others ask for huge
//! pages), `Vec` memory that was never touched, and `Vec` memory that was touched and that no op has used. Each run has
//! a new handle, which is made before the clock starts. `AIO_BACKEND=libaio` measures one backend alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use aio::tensor::{SafeTensors, Tensor};
use aio::{AioHandle, Backend};
use aio_cli::generate;
use aio_cli::host::cpu::Stopwatch;
use aio_cli::host::proc;

use crate::fio::Fio;
use crate::model::{Model, Place, Shape};
use crate::side_by_side::{SideBySide, Work, numbers_of_threads};
use crate::streams::evict;

const PIECE: usize = 4 << 20;

/// The memory of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Arena,
    Fresh,
    Touched,
}

pub(crate) fn compare(lines: &mut SideBySide) {
    let (bytes, tensors) = (lines.scaled(2 << 30, 8 << 20) as usize, lines.scaled(600, 24) as usize);
    let one = Shape::new(bytes, 1, tensors);
    let four = Shape::new(bytes, 4, tensors);
    let fio = Fio::find();
    let only = std::env::var(Backend::VARIABLE).ok();
    let models = [
        ("a file", Rc::new(Model::new(lines.path("one.safetensors"), &one))),
        ("4 shards", Rc::new(Model::new(lines.path("four.safetensors.index.json"), &four))),
    ];
    let wanted = |backend: &Backend| only.as_deref().is_none_or(|only| only == backend.name());
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread].into_iter().filter(wanted) {
        for (what, model) in &models {
            for into in [Target::Arena, Target::Fresh, Target::Touched] {
                load(lines, backend, what, model, into, fio);
            }
        }
        for (what, shape, end) in [("a file", &one, "safetensors"), ("4 shards", &four, "safetensors.index.json")] {
            save(lines, backend, &format!("save durable, {what}"), shape, end, fio);
        }
    }
}

/// What a run has, and what it leaves for the next one to replace.
#[derive(Debug, Default)]
struct Run {
    aio: Option<AioHandle>,
    loaded: BTreeMap<String, Tensor>,
}

fn handle(backend: Backend, limit: u64) -> AioHandle {
    let mut config = aio::AioConfig::default();
    // With a limit, its arena is its own, and new.
    config.arena_limit = Some(limit);
    aio::builder().backend(backend).config(config).build().expect("a handle")
}

fn load(lines: &mut SideBySide, backend: Backend, what: &str, model: &Rc<Model>, into: Target, fio: Option<Fio>) {
    let run = Rc::new(RefCell::new(Run::default()));
    let places = Rc::new(RefCell::new(Vec::<Place>::new()));
    for cold in [true, false] {
        let (next, next_places, model_) = (run.clone(), places.clone(), model.clone());
        lines.prepare_by(move || {
            // The old goes just before: a virtual machine that gives free memory back takes it anew slowly.
            *next.borrow_mut() = Run::default();
            next_places.borrow_mut().clear();
            for file in &model_.files {
                if cold {
                    evict(file);
                } else {
                    io::copy(&mut File::open(file).expect("the file"), &mut io::sink()).expect("the bytes");
                }
            }
            next.borrow_mut().aio = Some(handle(backend, model_.bytes + (1 << 30)));
            *next_places.borrow_mut() = match into {
                Target::Arena => model_.memory_of_files(),
                Target::Fresh | Target::Touched => model_.memory_of_tensors(into == Target::Touched),
            };
        });
        let costs = Costs::default();
        let mut ours = || {
            costs.of(if into == Target::Touched { 0 } else { model.bytes }, || {
                let mut run = run.borrow_mut();
                let opened = SafeTensors::open(run.aio.as_ref().expect("prepared"), &model.path).expect("the model");
                if into == Target::Arena {
                    run.loaded = opened.load().expect("the tensors");
                } else {
                    let mut places = places.borrow_mut();
                    let targets = places.iter_mut().map(|place| (place.name.clone(), place.bytes()));
                    opened.read_into(targets).expect("the tensors");
                }
                model.bytes
            })
        };
        let mut threads: Vec<Box<Work<'_>>> = numbers_of_threads()
            .map(|threads| {
                let places = &places;
                Box::new(move || model.read_by_threads(threads, places, into == Target::Arena)) as Box<Work<'_>>
            })
            .collect();
        let state = if cold { "cold" } else { "warm" };
        let memory = match into {
            Target::Arena => "arena",
            Target::Fresh => "fresh",
            Target::Touched => "touched",
        };
        let name = format!("load {state}, {what}, {memory}, {backend}");
        lines.line(&name, 0.95, &mut ours, &mut threads);
        costs.print();
        if let (true, Some(fio)) = (cold, fio) {
            let wanted = [(Target::Arena, 0.97), (Target::Fresh, 0.95), (Target::Touched, 0.85)];
            let wanted = wanted.into_iter().find(|(kind, _)| *kind == into).map_or(1.0, |(_, wanted)| wanted);
            let took = lines.own_clock();
            let theirs: Box<Work<'_>> = Box::new(|| {
                let folder = model.path.parent().expect("a folder");
                let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
                by_fio(&took, fio.read(folder, &model.files.iter().map(name).collect::<Vec<_>>()))
            });
            lines.line(&format!("{name}, beside fio"), wanted, &mut ours, &mut [theirs]);
        }
    }
    lines.prepare_by(|| ());
}

fn by_fio(clock: &Cell<Option<Duration>>, (bytes, took): (u64, Duration)) -> u64 {
    clock.set(Some(took));
    bytes
}

fn save(lines: &mut SideBySide, backend: Backend, what: &str, shape: &Shape, end: &str, fio: Option<Fio>) {
    let folder = lines.path("saves");
    fs::create_dir_all(&folder).expect("a folder");
    let mut memory = vec![0; shape.bytes()];
    generate::fill(&mut memory, 2);
    let aio = Rc::new(RefCell::new(None));
    let (next, emptied) = (aio.clone(), folder.clone());
    lines.prepare_by(move || {
        *next.borrow_mut() = None;
        empty(&emptied);
        *next.borrow_mut() = Some(handle(backend, 1 << 30));
    });
    let costs = Costs::default();
    let mut ours = || {
        costs.of(0, || {
            shape.save(aio.borrow().as_ref().expect("prepared"), &folder.join(format!("m.{end}")), &memory);
            memory.len() as u64
        })
    };
    let count = if end == "safetensors" { 1 } else { 4 };
    let names: Vec<_> = (0..count).map(|number| format!("plain-{number}")).collect();
    let paths: Vec<_> = names.iter().map(|name| folder.join(name)).collect();
    let mut threads: Vec<Box<Work<'_>>> = numbers_of_threads()
        .map(|threads| {
            let (memory, paths, folder) = (&memory[..], &paths, &folder);
            Box::new(move || write_by_threads(threads, memory, paths, folder)) as Box<Work<'_>>
        })
        .collect();
    lines.line(&format!("{what}, {backend}"), 1.0, &mut ours, &mut threads);
    costs.print();
    if let Some(fio) = fio {
        let took = lines.own_clock();
        let bytes = memory.len() as u64;
        let theirs: Box<Work<'_>> = Box::new(|| by_fio(&took, fio.write_new(&folder, &names, bytes)));
        lines.line(&format!("{what}, {backend}, beside fio"), 0.95, &mut ours, &mut [theirs]);
    }
    lines.prepare_by(|| ());
    empty(&folder);
}

/// Removes files, and waits until the disk knows: it may be asked to discard what they had.
fn empty(folder: &PathBuf) {
    for entry in fs::read_dir(folder).expect("the folder") {
        fs::remove_file(entry.expect("a name").path()).expect("the file goes");
    }
    nix::unistd::sync();
}

/// Writes new files of equal sizes by so many threads, and syncs files and folder.
fn write_by_threads(threads: usize, memory: &[u8], paths: &[PathBuf], folder: &PathBuf) -> u64 {
    let files: Vec<_> = paths.iter().map(|path| File::create_new(path).expect("a file")).collect();
    let each = memory.len().div_ceil(files.len());
    let parts = files.iter().zip(memory.chunks(each));
    let pieces = Mutex::new(parts.flat_map(|(file, part)| {
        part.chunks(PIECE).enumerate().map(move |(index, piece)| (file, (index * PIECE) as u64, piece))
    }));
    let write = || {
        while let Some((file, offset, piece)) = { pieces.lock().expect("no panic").next() } {
            file.write_all_at(piece, offset).expect("room for the bytes");
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(write))));
    let sync = |file: &File| file.sync_all().expect("a disk that takes the file");
    thread::scope(|scope| files.iter().for_each(|file| drop(scope.spawn(move || sync(file)))));
    sync(&File::open(folder).expect("the folder"));
    memory.len() as u64
}

/// What our runs took besides time: the CPU of the process, and the most memory beyond that of the tensors.
#[derive(Debug, Default)]
struct Costs {
    cpu: Cell<Duration>,
    bytes: Cell<u64>,
    beyond: Cell<u64>,
}

impl Costs {
    /// Runs work that takes `fresh` bytes for tensors.
    fn of(&self, fresh: u64, work: impl FnOnce() -> u64) -> u64 {
        // Sets the highest size of the process back to what it is now (proc(5)).
        let reset = fs::write("/proc/self/clear_refs", "5");
        let before = status("VmHWM") + fresh;
        let watch = Stopwatch::start();
        let bytes = work();
        self.cpu.set(self.cpu.get() + watch.stop().cpu);
        self.bytes.set(self.bytes.get() + bytes);
        if reset.is_ok() {
            self.beyond.set(self.beyond.get().max(status("VmHWM").saturating_sub(before)));
        }
        bytes
    }

    /// Prints them, if something ran.
    fn print(&self) {
        if self.bytes.get() > 0 {
            let per_gb = self.cpu.get().as_secs_f64() / (self.bytes.get() as f64 / 1e9);
            let beyond = self.beyond.get() as f64 / 1e6;
            println!("    ours: {per_gb:.3} s of CPU per GB; at most {beyond:.0} MB beyond the tensors");
        }
    }
}

/// A size from `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    proc::bytes(&text, key).unwrap_or(0)
}
