//! The four calls of native AIO, either straight into the kernel or through the C library libaio.
//!
//! Both modules have the same functions with the same convention, the kernel's own: a result, or a negated errno.

#[cfg(not(feature = "system-libaio"))]
mod direct;
#[cfg(not(feature = "system-libaio"))]
pub(crate) use direct::{io_destroy, io_getevents, io_setup, io_submit};

#[cfg(feature = "system-libaio")]
mod library;
#[cfg(feature = "system-libaio")]
pub(crate) use library::{io_destroy, io_getevents, io_setup, io_submit};
