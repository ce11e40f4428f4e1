//! What the machine has: memory, disk space, CPU time. Read from `/proc`, `/sys` and plain system calls.

pub mod cpu;
pub mod disk;
pub mod limits;
pub(crate) mod memory;
pub mod page_cache;
pub mod proc;
pub mod resident;
