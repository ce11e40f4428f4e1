//! What bad input and bad luck get: one sentence with the path and the reason, and nothing else disturbed.

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/mod.rs"]
mod support;

mod configuration;
mod limits;
mod memory;
mod names;
mod paths;
mod ranges;
