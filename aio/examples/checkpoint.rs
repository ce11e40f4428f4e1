//! Replaces a checkpoint so that after a crash or a power failure it is either the old one or the new one, whole.
//!
//!     cargo run --release -p tensor-aio --example checkpoint [FOLDER]

use std::path::{Path, PathBuf};

use aio::AioHandle;
use aio::buf::AlignedBuf;
use aio::op::AlignedLayout;

/// Bytes at the start of the file, for the number of the step.
const HEADER: u64 = 4096;

fn main() -> aio::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("aio-checkpoint-{}", std::process::id()));
    let aio = aio::builder().build()?;

    let outcome = train(&aio, &path);
    let _ = std::fs::remove_file(path);
    outcome
}

fn train(aio: &AioHandle, path: &Path) -> aio::Result<()> {
    let mut model = tensors(aio)?;
    for step in 1..=2 {
        for tensor in &mut model {
            tensor.as_mut_slice_of::<f32>()?.fill(step as f32 / 2.0);
        }
        save(aio, path, step, &model)?;
        println!("step {step}: {} is durable, {} tensors", path.display(), model.len());
    }

    let mut loaded = tensors(aio)?;
    let step = load(aio, path, &mut loaded)?;
    assert!(loaded.iter().zip(&model).all(|(loaded, saved)| loaded[..] == saved[..]));
    println!("loaded step {step}: the same {} tensors", loaded.len());
    Ok(())
}

/// Aligned memory: with this layout the engine copies only the last bytes of a tensor.
fn tensors(aio: &AioHandle) -> aio::Result<Vec<AlignedBuf>> {
    [1_000_000, 300_000, 1000].into_iter().map(|elements| aio.alloc(elements * size_of::<f32>())).collect()
}

/// Offsets of the tensors in the file, for `save` and `load`. They do not depend on the device, as with
/// `AlignedLayout::new(file.alignment())`, so the file can be copied to another device.
fn offsets(model: &[AlignedBuf]) -> aio::Result<Vec<u64>> {
    let mut layout = AlignedLayout::default();
    layout.push(HEADER)?;
    model.iter().map(|tensor| Ok(layout.push(tensor.len() as u64)?.start)).collect()
}

fn save(aio: &AioHandle, path: &Path, step: u64, model: &[AlignedBuf]) -> aio::Result<()> {
    let offsets = offsets(model)?;
    // A new file beside the target, which stays the old checkpoint until the commit.
    let checkpoint = aio.create_atomic(path)?;
    checkpoint.write_at(&step.to_le_bytes(), 0)?;
    // The scope borrows the tensors, and ends only when all ops have.
    aio.scope(|scope| {
        for (tensor, offset) in model.iter().zip(offsets) {
            scope.write(&checkpoint, tensor, offset);
        }
    })?;
    // Syncs the file and renames it to the target. Fails if any write failed; dropped instead, the new file is removed.
    Ok(checkpoint.commit().wait()?)
}

fn load(aio: &AioHandle, path: &Path, model: &mut [AlignedBuf]) -> aio::Result<u64> {
    let offsets = offsets(model)?;
    let checkpoint = aio.open(path)?;
    let mut step = [0; 8];
    checkpoint.read_at(&mut step, 0)?;
    aio.scope(|scope| {
        for (tensor, offset) in model.iter_mut().zip(offsets) {
            scope.read(&checkpoint, tensor, offset);
        }
    })?;
    Ok(u64::from_le_bytes(step))
}
