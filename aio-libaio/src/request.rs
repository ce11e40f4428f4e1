//! From a block to the request that the kernel reads.

use aio_core::backend::IoBlock;
use aio_core::op::Direction;

use crate::abi::{IOCB_CMD_PREAD, IOCB_CMD_PWRITE, IOCB_FLAG_RESFD, iocb};

/// The request for `block`, whose completion names `slot` and signals the eventfd `resfd`, if there is one.
pub(crate) fn request(block: &IoBlock, slot: u32, resfd: Option<u32>) -> iocb {
    iocb {
        aio_data: u64::from(slot),
        aio_lio_opcode: match block.direction {
            Direction::Read => IOCB_CMD_PREAD,
            Direction::Write => IOCB_CMD_PWRITE,
        },
        // A negative descriptor or offset stays one by this, and the kernel refuses it as it should.
        aio_fildes: block.fd as u32,
        aio_offset: block.offset as i64,
        aio_buf: block.ptr as u64,
        aio_nbytes: block.len as u64,
        aio_flags: if resfd.is_some() { IOCB_FLAG_RESFD } else { 0 },
        aio_resfd: resfd.unwrap_or(0),
        ..iocb::default()
    }
}
