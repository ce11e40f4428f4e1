//! The engine beside what users would write by hand: threads of plain system calls, `std::fs`, one call after the
//! other.
//!
//! `cargo bench -p aio-bench --bench plain -- [--dir DIR] [--pairs N] [--only TEXT] [GROUP...]`. Both sides run in
//! turns, each for half a second at least; a line has the medians of both, and the median, least and greatest of the
//! ratios of neighbouring runs. docs/performance.md has the figures.

mod files;
mod fio;
mod model;
mod page_cache;
mod pages;
mod requests;
mod side_by_side;
mod streams;
mod tensors;

use std::path::PathBuf;

use clap::Parser;

use side_by_side::SideBySide;

/// Lines that belong together.
type Group = fn(&mut SideBySide);

/// The groups, by name.
const GROUPS: &[(&str, Group)] = &[
    ("page-cache", page_cache::compare),
    ("files", files::compare),
    ("pages", pages::compare),
    ("stream-reads", streams::compare_reads),
    ("stream-writes", streams::compare_writes),
    ("requests", requests::compare),
    ("tensors", tensors::compare),
];

/// Measures the engine beside what users would write by hand.
#[derive(Debug, Parser)]
struct Args {
    /// The folder for the files
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// How many pairs of runs
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Only measure the lines whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Only run each line once, on little data
    #[arg(long)]
    test: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
    /// The groups to measure; all, if none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(GROUPS.iter().map(|(name, _)| *name)))]
    groups: Vec<String>,
}

fn main() {
    let args = Args::parse();
    let mut lines = SideBySide::new(&args.dir, args.pairs, args.only, args.test);
    for (name, compare) in GROUPS.iter().copied() {
        if args.groups.is_empty() || args.groups.iter().any(|group| group == name) {
            compare(&mut lines);
        }
    }
}
