//! `tensor-aio` as its users meet it: command lines in; output, exit codes and files out.

mod bad_input;
mod help;
mod inspect;
mod interrupt;
mod model;
mod probe;
mod small_disks;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod swap;
mod terminal;
mod tune;
mod verify;

const NAME: &str = "tensor-aio";
const PROGRAM: &str = env!("CARGO_BIN_EXE_tensor-aio");

/// Some options of some commands.
const OPTIONS: [&str; 3] = ["tensor-size", "fail-on", "runtime"];

/// Lines that print a result.
const PRINTING: &[&str] = &[
    "probe . --fail-on never",
    "swap --tensors 1 --tensor-size 4K --backend pthread",
    "soak --runtime 0.1 --size 16M --backend pthread",
    "tune . --size 1M --runtime 1",
];

/// A line that fails.
const FAILING: &str = "probe missing";

/// Lines about a folder DIR, with a file `file` in it.
const NAMING: &[&str] = &[
    "probe DIR --fail-on never",
    "swap --tensors 1 --tensor-size 4K --backend pthread --dir DIR",
    "soak --runtime 0.1 --size 16M --backend pthread --dir DIR",
    "tune DIR --size 1M --runtime 1 --write DIR/aio.json --overwrite",
];

/// Lines that start threads.
const NEEDING_THREADS: &[&str] = &[
    "swap --tensors 8 --tensor-size 64K --threads 2",
    "soak --runtime 0.2 --size 16M",
    "tune . --size 1M --runtime 1",
];

/// What is typed, and what it becomes when a shell completes it, in a folder with a file `f` and a folder `d`.
const COMPLETED: [(&str, &str); 7] = [
    ("tensor-aio tu", "tensor-aio tune "),
    ("tensor-aio swap --queue-d", "tensor-aio swap --queue-depth "),
    ("tensor-aio swap --layout ex", "tensor-aio swap --layout extents "),
    ("tensor-aio --tensor-s", "tensor-aio --tensor-size "),
    ("tensor-aio swap --dir ", "tensor-aio swap --dir d/"),
    ("tensor-aio ver", "tensor-aio verify "),
    ("tensor-aio inspect --js", "tensor-aio inspect --json "),
];
