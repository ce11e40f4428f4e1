//! Swaps the optimizer states of a layer out to a file and in again, as training does with a model that is larger than
//! memory.
//!
//!     cargo run --release -p tensor-aio --example swap [FOLDER]

use std::ops::Range;
use std::path::PathBuf;

use aio::buf::AlignedBuf;
use aio::op::AlignedLayout;
use aio::{AioFile, AioHandle};

/// What Adam keeps of a layer: names, and numbers of elements.
const STATES: [(&str, usize); 4] =
    [("weights", 4_000_000), ("momentum", 4_000_000), ("variance", 4_000_000), ("bias", 1000)];

fn main() -> aio::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("aio-swap-{}", std::process::id()));
    let aio = aio::builder().build()?;
    let file = aio.create(&path)?;
    println!("on {}, direct I/O: {}", aio.backend_name(), file.is_direct());

    let outcome = swap(&aio, &file);
    let _ = std::fs::remove_file(path);
    outcome
}

fn swap(aio: &AioHandle, file: &AioFile) -> aio::Result<()> {
    // One file for all of them, laid out so that nothing is copied on its way.
    let mut layout = AlignedLayout::new(file.alignment());
    let mut places = Vec::new();
    for (_, elements) in STATES {
        places.push(layout.push((elements * size_of::<f32>()) as u64)?);
    }
    file.allocate(0, layout.end()).wait()?; // a full disk is an error here, and not half-way

    let mut states = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let mut state = alloc(aio, &layout, place)?;
        state.as_mut_slice_of::<f32>()?.fill(number as f32); // past the tensor, too
        states.push(state);
    }

    // All are in flight at once. Each buffer belongs to its op until the ticket gives it back.
    let writes: Vec<_> =
        states.into_iter().zip(&places).map(|(state, place)| file.write(state, place.start)).collect();
    for ((name, _), write) in STATES.iter().zip(writes) {
        let state = write.wait()?;
        println!("{name}: {} bytes out", state.len()); // it is dropped here, and its memory is free for other tensors
    }

    let mut reads = Vec::new();
    for place in &places {
        reads.push(file.read(alloc(aio, &layout, place)?, place.start));
    }
    for (number, read) in reads.into_iter().enumerate() {
        let (name, elements) = STATES[number];
        let state = read.wait()?;
        let numbers = &state.as_slice_of::<f32>()?[..elements];
        assert!(numbers.iter().all(|value| *value == number as f32));
        println!("{name}: {elements} numbers in, all of them right");
    }

    let stats = aio.stats();
    println!(
        "{} bytes out and in again: {} past the page cache, {} copied on the way",
        layout.end(),
        stats.bytes_direct,
        stats.bytes_staged
    );
    Ok(())
}

/// Memory for a tensor, in whole units: so all of it can bypass the page cache.
fn alloc(aio: &AioHandle, layout: &AlignedLayout, place: &Range<u64>) -> aio::Result<AlignedBuf> {
    let len = (place.end - place.start).next_multiple_of(layout.unit());
    aio.alloc(len as usize)
}
