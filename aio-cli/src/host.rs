//! What the machine has: memory, room on disk, CPU time. Read from `/proc`, `/sys` and plain system calls.

pub mod cpu;
pub mod disk;
pub mod limits;
pub(crate) mod memory;
pub mod proc;
pub mod resident;
