//! Other programs read through the page cache, also what is not finished: no error, no stale bytes, for them or for us.
#![expect(clippy::single_range_in_vec_init, reason = "that is what a slice of one dimension is")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aio::tensor::{Dtype, SafeTensors, SaveOptions, TensorSpec, TensorView};
use aio::{AioHandle, DirectMode};
use safetensors::SafeTensors as Reference;
use support::{Generation, PATHS, names, pattern};

/// Reads all that is in the folder, hidden or not, as a program that makes backups would, until `run` is over.
fn beside_readers(folder: &Path, run: impl FnOnce()) {
    let (is_over, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir(folder).unwrap().flatten() {
                    match std::fs::read(entry.path()) {
                        Ok(read) => drop(bytes.fetch_add(read.len() as u64, Ordering::Relaxed)),
                        // It was renamed or removed since it was listed.
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
                    }
                }
            }
        });
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        is_over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(bytes.load(Ordering::Relaxed) > 0, "nothing was read");
}

fn each(test: impl Fn(&AioHandle, &Path)) {
    for direct in [DirectMode::Auto, DirectMode::Off] {
        let aio = aio::builder().direct(direct).block_size(256 << 10).build().unwrap();
        for name in PATHS {
            let folder = tempfile::tempdir().unwrap();
            test(&aio, &folder.path().join(name));
        }
    }
}

/// All tensors in the folder, through the page cache and by another implementation.
fn through_the_page_cache(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in names(folder).iter().filter(|name| name.ends_with(".safetensors")) {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = Reference::deserialize(&bytes).unwrap();
        found.extend(file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())));
    }
    found
}

#[test]
fn readers_of_the_page_cache_and_saves_do_not_disturb_each_other() {
    each(|aio, path| {
        let folder = path.parent().unwrap();
        beside_readers(folder, || {
            for round in 0..4u64 {
                let tensors: BTreeMap<_, _> =
                    (0..5).map(|at| (format!("t{at}"), pattern(round * 10 + at, (3 << 20) + at as usize))).collect();
                let options = SaveOptions::new().max_shard_size(8 << 20);
                if round % 2 == 0 {
                    let views = tensors
                        .iter()
                        .map(|(name, bytes)| (name, TensorView::of([bytes.len()], &bytes[..]).unwrap()));
                    options.save(aio, path, views).unwrap();
                } else {
                    // Blocks in parts, and checksums that take reading back.
                    let specs = tensors.iter().map(|(name, bytes)| TensorSpec::new(name, Dtype::U8, [bytes.len()]));
                    let writer = options.begin(aio, path, specs).unwrap();
                    for (name, bytes) in &tensors {
                        writer.write_at(name, 1_000_001, &bytes[1_000_001..]).unwrap();
                    }
                    for (name, bytes) in &tensors {
                        writer.write_at(name, 0, &bytes[..1_000_001]).unwrap();
                    }
                    writer.finish().unwrap();
                }
                assert!(through_the_page_cache(folder) == tensors, "round {round}");
                let set = SafeTensors::open(aio, folder).unwrap().verified(true);
                assert!(set.load().unwrap().iter().all(|(name, tensor)| tensor.bytes() == tensors[name]));
                for (name, bytes) in &tensors {
                    assert_eq!(set.slice(name, &[77..5000]).unwrap().bytes(), &bytes[77..5000]);
                }
                assert!(set.verify().all(|tensor| !tensor.unwrap().is_damaged()));
            }
        });
    });
}

#[test]
fn small_saves_and_loads_go_on_beside_readers_of_the_page_cache() {
    each(|aio, path| {
        let folder = path.parent().unwrap();
        beside_readers(folder, || {
            for number in 0..30 {
                Generation(number).save(aio, path).unwrap();
                assert_eq!(Generation::open(aio, folder).unwrap(), Generation(number));
                assert!(through_the_page_cache(folder) == Generation(number).tensors().into_iter().collect());
            }
        });
    });
}

/// What another program has just written is in the cache alone.
#[test]
fn what_was_written_through_the_page_cache_is_read_past_it() {
    each(|aio, path| {
        let folder = path.parent().unwrap();
        for number in 0..10 {
            let generation = Generation(number);
            let tensors = generation.tensors();
            let views = tensors.iter().map(|(name, bytes)| {
                (name, safetensors::tensor::TensorView::new(Dtype::U8, vec![bytes.len()], bytes).unwrap())
            });
            // By another program: dirty in the cache, and not on the device.
            let bytes = safetensors::serialize(views, None).unwrap();
            let other = folder.join("other.safetensors");
            std::fs::write(&other, bytes).unwrap();
            let found = SafeTensors::open(aio, &other).unwrap().load().unwrap();
            assert!(tensors.iter().all(|(name, bytes)| found[name].bytes() == bytes));
        }
    });
}
