//! `aio-bench` as its users meet it: command lines in, output, exit codes and files out.

mod bad_input;
mod bench;
mod compare;
mod completions;
mod help;
mod interrupt;
mod job_file;
mod mixed;
mod plot;
mod probe;
mod run;
mod schema;
mod small_disks;
mod soak;
mod support;
mod swap;
mod terminal;
mod tune;
mod verify;
