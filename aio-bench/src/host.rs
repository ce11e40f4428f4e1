//! What the machine has: memory, room on disk, CPU time. Read from `/proc`, `/sys` and plain system calls.

pub(crate) mod cpu;
pub(crate) mod disk;
pub(crate) mod limits;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod proc;
pub(crate) mod resident;
