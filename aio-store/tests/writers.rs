//! What a save refuses, and saves that end early or share what they need.

mod support;

use std::sync::{Arc, Barrier};

use aio::tensor::{Dtype, Error, SafeTensors, SaveOptions, TensorSpec, TensorView, save};
use support::{Generation, PATHS, assert_not_saved, handle, names, pattern};

fn spec(name: &str, len: usize) -> TensorSpec {
    TensorSpec::new(name, Dtype::U8, [len])
}

#[test]
fn what_cannot_be_saved_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in PATHS {
        let path = folder.path().join(name);
        let refuse = |options: SaveOptions, specs: Vec<TensorSpec>, why: &str| {
            assert_not_saved(options.begin(&handle(), &path, specs), why);
            assert_eq!(names(folder.path()), [""; 0]);
        };
        let plain = SaveOptions::new;
        refuse(plain(), vec![spec("a", 1), spec("a", 1)], "two tensors have the name \"a\"");
        refuse(plain(), vec![spec("__metadata__", 1)], "no tensor can have the name");
        refuse(plain().metadata("tensor_aio.xxh3_64.v1", "{}"), vec![], "is this library's");
        let endless = TensorSpec::new("a", Dtype::U8, [usize::MAX, 2]);
        refuse(plain(), vec![endless], "of more bytes than there can be");
        refuse(plain(), vec![spec("a", 1 << 60), spec("b", 1 << 60)], "File too large");
        refuse(plain(), vec![TensorSpec::new("a", Dtype::F4, [3])], "which are no whole bytes");
    }
    let long = spec(&"a".repeat(100_000_001), 1);
    assert_not_saved(
        SaveOptions::new().begin(&handle(), folder.path().join("m"), [long]),
        "the format allows 100000000",
    );
    assert_not_saved(save(&handle(), folder.path(), [("a", TensorView::of([1], &[1u8]).unwrap())]), "directory");
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_not_saved(save(&handle(), &fifo, [("a", TensorView::of([1], &[1u8]).unwrap())]), "FIFO");
    assert!(
        TensorView::of([2, 2], &[1.0f32; 3]).unwrap_err().to_string().contains("has 16 bytes, and its memory 12")
    );
}

#[test]
fn a_call_that_is_refused_does_not_end_the_save() {
    let folder = tempfile::tempdir().unwrap();
    for name in PATHS {
        let path = folder.path().join(name);
        let begin = || SaveOptions::new().begin(&handle(), &path, [spec("a", 10), spec("b", 0)]).unwrap();
        let writer = begin();
        let refused = |result: aio::tensor::Result<()>, why: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(writer.write("c", &[1u8; 1][..]), "there is no tensor \"c\"");
        refused(writer.write("a", &[1u8; 9][..]), "has 10 bytes, and its memory 9");
        refused(writer.write("a", &[1u8; 11][..]), "has 10 bytes, and its memory 11");
        refused(writer.write_at("a", 1, &[1u8; 10][..]), "10 bytes at 1");
        refused(writer.write_at("a", u64::MAX, &[1u8; 10][..]), "which has 10");
        refused(writer.write_at("a", u64::MAX, &[0u8; 0][..]), "which has 10");
        writer.write_at("a", 2, &[1u8; 4][..]).unwrap();
        refused(writer.write("a", &[1u8; 10][..]), "were written before");
        refused(writer.write_at("a", 0, &[1u8; 3][..]), "were written before");
        refused(writer.write_at("a", 5, &[1u8; 2][..]), "were written before");
        assert_eq!(SafeTensors::open(&handle(), folder.path()).is_ok(), name == PATHS[1]);
        writer.write_at("a", 0, &[2u8; 2][..]).unwrap();
        writer.write_at("a", 6, &[3u8; 4][..]).unwrap();
        writer.finish().unwrap();
        let found = SafeTensors::open(&handle(), folder.path()).unwrap().verified(true).load().unwrap();
        assert_eq!(found["a"].bytes(), [2, 2, 1, 1, 1, 1, 3, 3, 3, 3]);

        let writer = begin();
        writer.write_at("a", 0, &[9u8; 4][..]).unwrap();
        writer.write_at("a", 5, &[9u8; 5][..]).unwrap();
        assert_not_saved(writer.finish(), "of tensor \"a\", of 10 bytes, 4..5 were not written");
        assert!(
            SafeTensors::open(&handle(), folder.path()).unwrap().tensor("a").unwrap().bytes() == found["a"].bytes()
        );
        // For the other kind, which would be beside the first.
        names(folder.path()).iter().for_each(|name| std::fs::remove_file(folder.path().join(name)).unwrap());
        std::fs::write(folder.path().join("other.safetensors"), [2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']).unwrap();
    }
}

#[test]
fn a_save_that_is_dropped_never_was() {
    let folder = tempfile::tempdir().unwrap();
    for name in PATHS {
        let path = folder.path().join(name);
        let writer = Generation(1).write(&handle(), &path).unwrap();
        drop(writer);
        assert_eq!(names(folder.path()), [""; 0]);
        Generation(2).save(&handle(), &path).unwrap();
        let before = names(folder.path());
        drop(Generation(3).write(&handle(), &path).unwrap());
        assert_eq!(names(folder.path()), before);
        assert_eq!(Generation::open(&handle(), folder.path()).unwrap(), Generation(2));
        before.iter().for_each(|name| std::fs::remove_file(folder.path().join(name)).unwrap());
    }
}

#[test]
fn a_panic_between_writes_leaves_the_old_set() {
    let folder = tempfile::tempdir().unwrap();
    for name in PATHS {
        let path = folder.path().join(name);
        Generation(1).save(&handle(), &path).unwrap();
        let before = names(folder.path());
        // In one of two threads, while the other writes.
        let writer = Generation(2).options().begin(&handle(), &path, Generation(2).specs()).unwrap();
        let together = Barrier::new(2);
        let panicked = std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let (name, bytes) = &Generation(2).tensors()[0];
                writer.write_at(name, 0, &bytes[..100]).unwrap();
                together.wait();
                panic!("on purpose");
            });
            together.wait();
            for (name, bytes) in Generation(2).tensors().iter().skip(1) {
                writer.write(name, bytes).unwrap();
            }
            panics.join().is_err()
        });
        assert!(panicked);
        assert_not_saved(writer.finish(), "were not written");
        // And with the writer of the thread's own.
        let moved = path.clone();
        let panics = std::thread::spawn(move || {
            let _writer = Generation(2).write(&handle(), &moved).unwrap();
            panic!("on purpose");
        });
        panics.join().unwrap_err();
        assert_eq!(names(folder.path()), before);
        assert_eq!(Generation::open(&handle(), folder.path()).unwrap(), Generation(1));
        before.iter().for_each(|name| std::fs::remove_file(folder.path().join(name)).unwrap());
    }
}

#[test]
fn only_one_save_of_several_files_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PATHS[0]);
    let writer = Generation(1).write(&handle(), &path).unwrap();
    assert_not_saved(Generation(2).save(&handle(), &path), "another save to");
    writer.finish().unwrap();
    assert_eq!(Generation::open(&handle(), &path).unwrap(), Generation(1));
    let writer = Generation(2).write(&handle(), &path).unwrap();
    assert_not_saved(Generation(3).save(&handle(), &path), "another save to");
    drop(writer);
    Generation(3).save(&handle(), &path).unwrap();
    assert_eq!(Generation::open(&handle(), &path).unwrap(), Generation(3));
    // Several saves of one file end one after the other, each whole.
    let path = Arc::new(folder.path().join("single.safetensors"));
    let writers: Vec<_> = (1..5).map(|number| Generation(number).write(&handle(), &path).unwrap()).collect();
    let saving = writers.into_iter().map(|writer| std::thread::spawn(move || writer.finish().unwrap()));
    saving.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert!((1..5).contains(&Generation::open(&handle(), &path).unwrap().0));
}

/// Other programs would load it, and not the index.
#[test]
fn an_index_is_not_saved_beside_a_single_file_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    Generation(1).save(&handle(), &folder.path().join(PATHS[1])).unwrap();
    assert_not_saved(
        Generation(2).save(&handle(), &folder.path().join(PATHS[0])),
        "which other programs would load instead",
    );
    assert_eq!(names(folder.path()), [PATHS[1]]);
    assert_eq!(Generation::open(&handle(), folder.path()).unwrap(), Generation(1));
}

/// Only what a save made goes with the next one.
#[test]
fn files_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PATHS[0]);
    let others = [
        "m-1-of-2.safetensors",
        "m-extra-00001-of-00002.safetensors",
        "n-00001-of-00002.safetensors",
        "m-00001-of-00002.bin",
        ".n.safetensors.index.json.a1B2c3.tmp",
        "m",
    ];
    others.iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
    (1..4).for_each(|number| Generation(number).save(&handle(), &path).unwrap());
    others.iter().for_each(|name| assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), name.as_bytes()));
    assert_eq!(names(folder.path()).len(), others.len() + 4);
}

/// Its name ends like the word that a save puts into the names of its files.
#[test]
fn files_of_another_index_stay() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [PATHS[0], "m-aio0123456789abcdef.safetensors.index.json"].map(|name| folder.path().join(name));
    for number in 1..4 {
        for (path, other) in [(&paths[0], &paths[1]), (&paths[1], &paths[0])] {
            let before = Generation::open(&handle(), other).ok();
            Generation(number).save(&handle(), path).unwrap();
            assert_eq!(Generation::open(&handle(), path).unwrap(), Generation(number));
            assert_eq!(Generation::open(&handle(), other).ok(), before);
        }
    }
    assert_eq!(names(folder.path()).len(), 8);
}

#[test]
fn a_small_arena_is_enough_or_a_sentence() {
    let tensors: Vec<_> = (0..8).map(|at| (format!("t{at}"), pattern(at, 3 << 20))).collect();
    for name in PATHS {
        for mebibytes in [1, 4, 8, 12, 64] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let aio = aio::builder().arena_limit(mebibytes << 20).build().unwrap();
            let specs: Vec<_> = tensors.iter().map(|(name, bytes)| spec(name, bytes.len())).collect();
            let save = || {
                let writer = SaveOptions::new().max_shard_size(8 << 20).begin(&aio, &path, specs.clone())?;
                // The last halves first, so that the checksums take reading back.
                for (name, bytes) in &tensors {
                    writer.write_at(name, 1 << 20, &bytes[1 << 20..])?;
                }
                for (name, bytes) in &tensors {
                    writer.write_at(name, 0, &bytes[..1 << 20])?;
                }
                writer.finish()
            };
            let saved = save();
            if mebibytes < 4 {
                let error = saved.unwrap_err().to_string();
                assert!(error.contains("of the arena's limit"), "{mebibytes} MiB: {error}");
                assert_eq!(names(folder.path()), [""; 0]);
                continue;
            }
            saved.unwrap_or_else(|error| panic!("{name}, {mebibytes} MiB: {error}"));
            let set = SafeTensors::open(&aio, folder.path()).unwrap().verified(true);
            // A tensor at a time, since the consumer has them.
            for (name, bytes) in &tensors {
                assert!(set.tensor(name).unwrap().bytes() == bytes);
            }
            let all = set.verify().collect::<aio::tensor::Result<Vec<_>>>().unwrap();
            assert!(all.len() == tensors.len() && all.iter().all(|tensor| !tensor.is_damaged()));
            assert_eq!(set.stream(0).map(|read| read.unwrap().1.bytes().len()).sum::<usize>(), 24 << 20);
        }
    }
}

#[test]
fn a_full_arena_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let aio = aio::builder().arena_limit(16 << 20).build().unwrap();
    for name in PATHS {
        let path = folder.path().join(name);
        Generation(1).save(&aio, &path).unwrap();
        let set = SafeTensors::open(&aio, &path).unwrap();
        let before = names(folder.path());
        let mut taken = Vec::new();
        for size in [1 << 20, 4096] {
            taken.extend(std::iter::from_fn(|| aio.try_alloc(size).ok()));
        }
        assert_not_saved(
            Generation(2).write(&aio, &path).and_then(|writer| writer.finish()).map_err(not_saved),
            "of the arena's limit",
        );
        for error in [set.load().unwrap_err(), set.verify().next().unwrap().unwrap_err()] {
            let is_memory = matches!(error, Error::Io(aio::Error::OutOfMemory { .. }));
            assert!(is_memory, "{error}");
        }
        assert_eq!(names(folder.path()), before);
        drop(taken);
        assert_eq!(Generation::open(&aio, &path).unwrap(), Generation(1));
        Generation(2).save(&aio, &path).unwrap();
        names(folder.path()).iter().for_each(|name| std::fs::remove_file(folder.path().join(name)).unwrap());
    }
}

/// What [`Writer::write`](aio::tensor::Writer::write) gives is without the path.
fn not_saved(error: Error) -> Error {
    match error {
        error @ Error::NotSaved { .. } => error,
        error => Error::NotSaved { path: "m".into(), source: Box::new(error) },
    }
}

#[test]
fn a_lock_that_is_no_file_and_an_index_that_is_a_link_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (lock, path) = (folder.path().join(".m.safetensors.lock"), folder.path().join(PATHS[0]));
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &lock).unwrap();
    assert_not_saved(Generation(1).save(&handle(), &path), "symbolic links");
    assert!(!elsewhere.exists());
    std::fs::remove_file(&lock).unwrap();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_not_saved(Generation(1).save(&handle(), &path), "No such device");
    std::fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_not_saved(Generation(1).save(&handle(), &path), "is a symbolic link");
    std::fs::remove_file(&path).unwrap();
    Generation(1).save(&handle(), &path).unwrap();
    assert!(!names(folder.path()).iter().any(|name| name.ends_with(".lock")));
}

#[test]
fn files_that_another_index_names_in_its_own_way_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(PATHS[0]);
    Generation(1).save(&handle(), &path).unwrap();
    let used = folder.path().join("m-00007-of-00007.safetensors");
    save(&handle(), &used, [("a", TensorView::of([1], &[1u8]).unwrap())]).unwrap();
    let leftover = folder.path().join("m-00008-of-00008.safetensors");
    std::fs::copy(&used, &leftover).unwrap();
    let other = folder.path().join("other.safetensors.index.json");
    std::fs::write(&other, r#"{"weight_map": {"a": "./m-00007-of-00007.safetensors"}}"#).unwrap();
    Generation(2).save(&handle(), &path).unwrap();
    assert!(used.exists() && !leftover.exists());
    SafeTensors::open(&handle(), &other).unwrap().load().unwrap();
    SafeTensors::open(&handle(), &path).unwrap().verified(true).load().unwrap();
}
