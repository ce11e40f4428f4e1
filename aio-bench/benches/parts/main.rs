//! The cost of the engine's parts, one by one.
//!
//! The arena is measured alone; hand-off, completion and staging on a backend that completes every block at once, so
//! that only the engine's own work remains. The last group measures what lies below the engine, the queues of the
//! backends, beside the plain system call and, with the features `peer-rio` and `peer-glommio`, other libraries.
//!
//! Times are elapsed times, and short ones: they compare two builds on one machine within minutes. The command
//! `aio-bench` measures whole jobs, against fio; see docs/performance.md.

mod arena;
mod completion;
mod data_file;
mod hand_off;
mod null_backend;
#[cfg(feature = "peer-glommio")]
mod peer_glommio;
#[cfg(feature = "peer-rio")]
mod peer_rio;
mod queues;
mod read;
mod staging;

use std::fmt::Display;
use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    hand_off::bench(&mut criterion);
    completion::bench(&mut criterion);
    staging::bench(&mut criterion);
    arena::bench(&mut criterion);
    read::bench(&mut criterion);
    criterion.final_summary();
}

/// Prints what is not measured here, and why.
fn skip(what: impl Display, why: impl Display) {
    eprintln!("SKIPPED {what}: {why}");
}
