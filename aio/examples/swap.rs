//! Swaps optimizer states layer by layer, as training does with a model larger than memory: while it updates a layer,
//! the next one is read and the one before is written.
//!
//!     cargo run --release -p tensor-aio --example swap [FOLDER]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aio::buf::AlignedBuf;
use aio::op::AlignedLayout;
use aio::{AioFile, AioHandle, Ticket};

/// Adam's states of a layer: names and numbers of elements.
const STATES: [(&str, usize); 4] =
    [("weights", 2_000_000), ("momentum", 2_000_000), ("variance", 2_000_000), ("bias", 1000)];
/// At least three, so that no layer is read while it is still being written.
const LAYERS: usize = 8;
const STEPS: usize = 3;

fn main() -> aio::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("aio-swap-{}", std::process::id()));
    let aio = aio::builder().build()?;
    let file = aio.create(&path)?;
    println!("on {}, direct I/O: {}", aio.backend_name(), file.is_direct());

    let outcome = train(&aio, &file);
    let _ = std::fs::remove_file(path);
    outcome
}

fn train(aio: &AioHandle, file: &AioFile) -> aio::Result<()> {
    // A layer is one buffer and one range of the file, aligned so that the engine copies nothing.
    let mut layout = AlignedLayout::new(file.alignment());
    let mut places = Vec::new();
    for (_, elements) in STATES {
        let start = layout.push((elements * size_of::<f32>()) as u64)?.start as usize / size_of::<f32>();
        places.push(start..start + elements);
    }
    let offset = |layer: usize| layer as u64 * layout.end();
    let alloc = || aio.alloc(layout.end() as usize);
    let read = |layer| -> aio::Result<Ticket<AlignedBuf>> { Ok(file.read(alloc()?, offset(layer))) };

    file.allocate(0, offset(LAYERS)).wait()?; // a full disk is an error here, and not half-way
    for layer in 0..LAYERS {
        let mut states = alloc()?;
        states.fill(0);
        file.write(states, offset(layer)).wait()?;
    }

    let mut waited = Duration::ZERO;
    let mut incoming = read(0)?;
    let mut outgoing: Option<Ticket<AlignedBuf>> = None;
    for layer in (0..LAYERS).cycle().take(STEPS * LAYERS) {
        let start = Instant::now();
        let mut states = incoming.wait()?;
        waited += start.elapsed();

        incoming = read((layer + 1) % LAYERS)?; // in flight while this layer is updated
        let numbers = states.as_mut_slice_of::<f32>()?;
        for place in &places {
            numbers[place.clone()].iter_mut().for_each(|number| *number += 1.0);
        }

        // This drops the memory that the ticket returns, so at most three layers are in memory.
        if let Some(written) = outgoing.replace(file.write(states, offset(layer))) {
            written.wait()?;
        }
    }
    if let Some(written) = outgoing {
        written.wait()?;
    }
    println!("{STEPS} steps of {LAYERS} layers waited {waited:.1?} for the next layer");

    for layer in 0..LAYERS {
        let states = read(layer)?.wait()?;
        let numbers = states.as_slice_of::<f32>()?;
        for ((name, _), place) in STATES.iter().zip(&places) {
            assert!(numbers[place.clone()].iter().all(|number| *number == STEPS as f32), "{name}");
        }
    }
    let stats = aio.stats();
    println!("all of them right; {} bytes past the page cache, {} copied", stats.bytes_direct, stats.bytes_staged);
    Ok(())
}
