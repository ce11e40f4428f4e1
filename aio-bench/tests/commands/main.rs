//! `aio-bench` as its users meet it: command lines in; output, exit codes and files out.

mod bad_input;
mod compare;
mod help;
mod interrupt;
mod job_file;
mod mixed;
mod plot;
mod run;
mod small_disks;
#[path = "../../../aio-cli/tests/support/mod.rs"]
mod support;
mod terminal;
mod verify;

const NAME: &str = "aio-bench";
const PROGRAM: &str = env!("CARGO_BIN_EXE_aio-bench");

/// Some options of some commands.
const OPTIONS: [&str; 2] = ["bare", "only"];

/// Lines that print a result.
const PRINTING: &[&str] = &["compare --size 1M --rounds 1 --runtime 0.001 --only save --threads 2"];

/// A line that fails.
const FAILING: &str = "run --op read --file missing";

/// Lines about a folder DIR, with a file `file` in it.
const NAMING: &[&str] = &[
    "run --op read --file DIR/file --block-size 4K",
    "compare --size 1M --rounds 1 --runtime 0.001 --only read,save --threads 2 --dir DIR",
];

/// Lines that start threads.
const NEEDING_THREADS: &[&str] = &[
    "compare --size 1M --rounds 1 --runtime 0.001 --only save --threads 4",
    "run --op write --file new --size 1M --threads 2 --log l.hlog",
];

/// What is typed, and what it becomes when a shell completes it, in a folder with a file `f` and a folder `d`.
const COMPLETED: [(&str, &str); 4] = [
    ("aio-bench pl", "aio-bench plot "),
    ("aio-bench run --queue-d", "aio-bench run --queue-depth "),
    ("aio-bench plot --x bl", "aio-bench plot --x block-size "),
    ("aio-bench compare --dir ", "aio-bench compare --dir d/"),
];
