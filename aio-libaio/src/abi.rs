//! The structures that user space and the kernel share, under the names of `linux/aio_abi.h`.
//!
//! The kernel's own header gives every field a fixed width, so one definition serves all 64-bit targets; `libaio.h`
//! describes the same bytes. 32-bit targets differ in the context id and in `timespec`, and are not supported.
#![allow(non_camel_case_types)]

use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::AtomicU32;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("aio-libaio supports 64-bit targets only: turn the feature `libaio` off to use another backend");

/// What `io_setup` hands out: the address of the completion ring it mapped, see [`aio_ring`].
pub(crate) type io_context_t = *mut aio_ring;

/// One request. The kernel copies it during `io_submit` and writes only `aio_key`, also during `io_submit`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct iocb {
    /// Comes back as [`io_event::data`].
    pub(crate) aio_data: u64,
    #[cfg(target_endian = "little")]
    pub(crate) aio_key: u32,
    pub(crate) aio_rw_flags: i32,
    // One 64-bit word on old kernels, hence the order that follows the byte order.
    #[cfg(target_endian = "big")]
    pub(crate) aio_key: u32,
    pub(crate) aio_lio_opcode: u16,
    pub(crate) aio_reqprio: i16,
    pub(crate) aio_fildes: u32,
    /// Address of the memory; for [`IOCB_CMD_POLL`] the `poll(2)` events.
    pub(crate) aio_buf: u64,
    pub(crate) aio_nbytes: u64,
    pub(crate) aio_offset: i64,
    pub(crate) aio_reserved2: u64,
    pub(crate) aio_flags: u32,
    /// The eventfd that [`IOCB_FLAG_RESFD`] asks to signal.
    pub(crate) aio_resfd: u32,
}

/// One completion.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct io_event {
    /// [`iocb::aio_data`] of the request.
    pub(crate) data: u64,
    /// Address of the request's [`iocb`].
    pub(crate) obj: u64,
    /// Bytes moved, or a negated errno.
    pub(crate) res: i64,
    pub(crate) res2: i64,
}

/// Head of the completion ring that the kernel maps at the address that is the context id; `nr` [`io_event`]s follow.
///
/// The kernel writes events and `tail`, the reaper writes `head`; nothing else changes after `io_setup`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct aio_ring {
    pub(crate) id: u32,
    pub(crate) nr: u32,
    pub(crate) head: AtomicU32,
    pub(crate) tail: AtomicU32,
    pub(crate) magic: u32,
    pub(crate) compat_features: u32,
    pub(crate) incompat_features: u32,
    pub(crate) header_length: u32,
}

pub(crate) const IOCB_CMD_PREAD: u16 = 0;
pub(crate) const IOCB_CMD_PWRITE: u16 = 1;
/// Completes once when a descriptor is ready, like one-shot `epoll`. Linux 4.19.
pub(crate) const IOCB_CMD_POLL: u16 = 5;
/// Signal the eventfd in [`iocb::aio_resfd`] on completion.
pub(crate) const IOCB_FLAG_RESFD: u32 = 1;
pub(crate) const AIO_RING_MAGIC: u32 = 0xa10a_10a1;

const _: () = {
    assert!(size_of::<iocb>() == 64 && align_of::<iocb>() == 8);
    assert!(offset_of!(iocb, aio_data) == 0);
    assert!(offset_of!(iocb, aio_key) == if cfg!(target_endian = "little") { 8 } else { 12 });
    assert!(offset_of!(iocb, aio_rw_flags) == if cfg!(target_endian = "little") { 12 } else { 8 });
    assert!(offset_of!(iocb, aio_lio_opcode) == 16);
    assert!(offset_of!(iocb, aio_reqprio) == 18);
    assert!(offset_of!(iocb, aio_fildes) == 20);
    assert!(offset_of!(iocb, aio_buf) == 24);
    assert!(offset_of!(iocb, aio_nbytes) == 32);
    assert!(offset_of!(iocb, aio_offset) == 40);
    assert!(offset_of!(iocb, aio_reserved2) == 48);
    assert!(offset_of!(iocb, aio_flags) == 56);
    assert!(offset_of!(iocb, aio_resfd) == 60);

    assert!(size_of::<io_event>() == 32 && align_of::<io_event>() == 8);
    assert!(offset_of!(io_event, data) == 0);
    assert!(offset_of!(io_event, obj) == 8);
    assert!(offset_of!(io_event, res) == 16);
    assert!(offset_of!(io_event, res2) == 24);

    assert!(size_of::<aio_ring>() == 32 && align_of::<aio_ring>() == 4);
    assert!(offset_of!(aio_ring, id) == 0);
    assert!(offset_of!(aio_ring, nr) == 4);
    assert!(offset_of!(aio_ring, head) == 8);
    assert!(offset_of!(aio_ring, tail) == 12);
    assert!(offset_of!(aio_ring, magic) == 16);
    assert!(offset_of!(aio_ring, compat_features) == 20);
    assert!(offset_of!(aio_ring, incompat_features) == 24);
    assert!(offset_of!(aio_ring, header_length) == 28);
};
