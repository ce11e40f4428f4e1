//! `tensor-aio` as its users meet it: command lines in, output, exit codes and files out.

mod bad_input;
mod help;
mod interrupt;
mod probe;
mod small_disks;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod swap;
mod terminal;
mod tune;

const NAME: &str = "tensor-aio";
const PROGRAM: &str = env!("CARGO_BIN_EXE_tensor-aio");

/// Some options of some commands.
const OPTIONS: [&str; 3] = ["tensor-size", "fail-on", "budget"];

/// What is typed, and what it becomes when a shell completes it, in a folder with a file `f` and a folder `d`.
const COMPLETED: [(&str, &str); 5] = [
    ("tensor-aio tu", "tensor-aio tune "),
    ("tensor-aio swap --queue-d", "tensor-aio swap --queue-depth "),
    ("tensor-aio swap --layout ex", "tensor-aio swap --layout extents "),
    ("tensor-aio --tensor-s", "tensor-aio --tensor-size "),
    ("tensor-aio swap --dir ", "tensor-aio swap --dir d/"),
];
