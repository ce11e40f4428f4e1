//! `aio-bench` as its users meet it: command lines in, output, exit codes and files out.

mod bad_input;
mod bench;
mod help;
mod interrupt;
mod probe;
mod run;
mod schema;
mod swap;
mod tune;
