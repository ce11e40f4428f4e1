//! From a block to the request that the kernel reads.

use aio_core::backend::IoBlock;
use aio_core::op::Direction;
use io_uring::{opcode, squeue, types};

/// More than this the kernel transfers short anyway; the caller of a queue resumes short transfers.
const MAX_BYTES: usize = 0x7fff_f000;

/// The request for `block`: with the fixed opcode if it has the index of a registered `region`, on the registered
/// `file` if it has a slot. `no_wait`: it ends with EAGAIN or EOPNOTSUPP where it would have to wait for a kernel
/// worker.
pub(crate) fn request(block: &IoBlock, region: Option<u16>, file: Option<u32>, no_wait: bool) -> squeue::Entry {
    // No truncation: MAX_BYTES fits.
    let len = block.len.min(MAX_BYTES) as u32;
    // An offset of u64::MAX would mean "wherever the file position is"; this one is refused.
    let offset = block.offset.min(i64::MAX as u64);
    let flags = if no_wait { libc::RWF_NOWAIT } else { 0 };
    // The crate's two kinds of file share no public trait.
    macro_rules! on_file {
        (|$target:ident| $request:expr) => {
            match file {
                Some(slot) => {
                    let $target = types::Fixed(slot);
                    $request.offset(offset).build()
                }
                None => {
                    let $target = types::Fd(block.fd);
                    $request.offset(offset).build()
                }
            }
        };
    }
    match (block.direction, region) {
        (Direction::Read, Some(region)) => {
            on_file!(|file| opcode::ReadFixed::new(file, block.ptr, len, region).rw_flags(flags))
        }
        (Direction::Write, Some(region)) => {
            on_file!(|file| opcode::WriteFixed::new(file, block.ptr, len, region).rw_flags(flags))
        }
        (Direction::Read, None) => on_file!(|file| opcode::Read::new(file, block.ptr, len).rw_flags(flags)),
        (Direction::Write, None) => on_file!(|file| opcode::Write::new(file, block.ptr, len).rw_flags(flags)),
    }
}
