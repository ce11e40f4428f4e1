//! Many tasks on one thread. Each awaits memory and reads with a time-out that stops the read; the result is written as
//! a checkpoint that appears as a whole or not at all.

use std::error::Error;
use std::time::Duration;

use aio::buf::AlignedBuf;
use aio::{AioFile, AioHandle};

const TENSOR: usize = 1 << 20;
const TENSORS: usize = 32;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Memory for eight tensors: it bounds how many ops are in flight, however many tasks there are.
    let aio = aio::builder().arena_limit(8 * TENSOR as u64).build()?;
    let weights = write_weights(&aio, &folder.path().join("weights.bin")).await?;
    let checkpoint = aio.create_atomic_async(folder.path().join("checkpoint.bin")).await?;
    let copy = checkpoint.unlimited();
    let tasks: Vec<_> = (0..TENSORS)
        .map(|index| tokio::spawn(copy_tensor(aio.clone(), weights.clone(), copy.clone(), index * TENSOR)))
        .collect();
    for task in tasks {
        task.await??;
    }
    let target = checkpoint.target().to_owned();
    checkpoint.commit().await?;
    println!("{} has {TENSORS} tensors of {TENSOR} bytes", target.display());
    Ok(())
}

/// A file to read. Starting an op on it never blocks the runtime's thread, however many are pending.
async fn write_weights(aio: &AioHandle, path: &std::path::Path) -> aio::Result<AioFile> {
    let file = aio.create_async(path).await?.unlimited();
    for index in 0..TENSORS {
        let mut tensor = aio.alloc_async(TENSOR).await?;
        tensor.fill(index as u8);
        file.write(tensor, (index * TENSOR) as u64).await?;
    }
    Ok(file)
}

async fn copy_tensor(
    aio: AioHandle,
    from: AioFile,
    to: AioFile,
    offset: usize,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let read = read_tensor(&aio, &from, offset as u64);
    let tensor = tokio::time::timeout(Duration::from_secs(10), read).await??;
    to.write(tensor, offset as u64).await?;
    Ok(())
}

/// Reads a tensor. A time-out may drop this future; without `cancel_on_drop` the read would then go on to its last byte.
async fn read_tensor(aio: &AioHandle, file: &AioFile, offset: u64) -> aio::Result<AlignedBuf> {
    let buffer = aio.alloc_async(TENSOR).await?;
    Ok(file.read(buffer, offset).cancel_on_drop().await?)
}
