//! Memory that an op may own while it is in flight.
//!
//! The kernel gets a bare pointer and keeps using it until the completion is reaped, whatever happens to the future or
//! the ticket in between. So a buffer is *moved* into the op and comes back with the result; the traits here say what
//! a type must promise for that to be sound. Borrowed memory goes through
//! [`AioHandle::scope`](crate::AioHandle::scope), which uses the same traits and waits before the borrow ends.
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::backend::RegionId;
use crate::op::elements::{Elements, Pod};

/// Memory that can be written to a file.
///
/// | memory | can be written | can be read into |
/// |---|---|---|
/// | [`AlignedBuf`](crate::buf::AlignedBuf): what transfers fastest | yes | yes |
/// | `Vec<T>`, `Box<[T]>`, `Box<[T; N]>` of `u8`, `f32` or `f64` | yes | yes |
/// | `&mut [T]`, `&mut [T; N]`, and `&mut` to any of the above | yes | yes |
/// | `&[T]`, `&[T; N]`, and `&` or `Arc` to any of the above | yes | |
/// | [`Elements`] of such memory of other numbers | yes | as the memory in it |
/// | `bytes::BytesMut`, with the feature `bytes` | yes | yes |
/// | `bytes::Bytes`, with the feature `bytes` | yes | |
///
/// The length counts, not the capacity: nothing is read into `Vec::with_capacity(4096)`, whose length is 0.
///
/// References that are not `'static` go to [`AioHandle::scope`](crate::AioHandle::scope). A literal without a type is a
/// byte, as in `vec![0; 4096]`, or an `f64`, as in `vec![0.0; 512]`.
///
/// An op may outlive the call that starts it, and so takes no memory that a local owns:
///
/// ```compile_fail,E0597
/// # fn example(file: aio::AioFile) {
/// let mut tensor = vec![0u8; 4096];
/// let ticket = file.read(&mut tensor, 0); // `tensor` does not live long enough
/// # }
/// ```
///
/// nor what is not plain bytes:
///
/// ```compile_fail,E0277
/// # fn example(file: aio::AioFile) {
/// let ticket = file.write(vec![String::new()], 0); // `Vec<String>` is not memory that can be written to a file
/// # }
/// ```
///
/// # Safety
///
/// - [`byte_ptr`](Self::byte_ptr) points to [`byte_len`](Self::byte_len) initialised bytes that stay valid and do not
///   move
///   for as long as the value lives, also when the value itself is moved.
/// - Nothing changes these bytes while only a shared reference to the value, or the value itself, is around.
/// - Both, and [`region`](Self::region), answer the same on every call until the value is changed by its owner; a
///   region that is named contains all the bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not memory that can be written to a file",
    label = "not an `IoBuf`",
    note = "an op takes an `AlignedBuf` from `AioHandle::alloc`, or a `Vec<T>`, `Box<[T]>` or `Arc<[T]>` of \
            `u8`, `f32` or `f64` (of other numbers, in `Elements`), and gives it back with its result",
    note = "for borrowed memory there are `AioHandle::scope`, and `AioFile::write_at`, which blocks and takes bytes"
)]
pub unsafe trait IoBuf: Send {
    /// First byte.
    fn byte_ptr(&self) -> *const u8;

    /// Bytes.
    fn byte_len(&self) -> usize;

    /// The arena region that contains the bytes, by which registered memory is found.
    fn region(&self) -> Option<RegionId> {
        None
    }
}

/// Memory that a file can be read into: all its bytes, no more. What is: see [`IoBuf`].
///
/// # Safety
///
/// As for [`IoBuf`]; and [`byte_mut_ptr`](Self::byte_mut_ptr) gives the same address as
/// [`byte_ptr`](IoBuf::byte_ptr), with which any byte values may be written until the value is used again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not memory that a file can be read into",
    label = "not an `IoBufMut`",
    note = "an op takes an `AlignedBuf` from `AioHandle::alloc`, or a `Vec<T>` or `Box<[T]>` of `u8`, `f32` or \
            `f64` (of other numbers, in `Elements`), and gives it back with its result",
    note = "for borrowed memory there are `AioHandle::scope`, and `AioFile::read_at`, which blocks and takes bytes"
)]
pub unsafe trait IoBufMut: IoBuf {
    /// First byte.
    fn byte_mut_ptr(&mut self) -> *mut u8;
}

/// Memory that is a slice of elements. A use says where the slice lies, and who may change it.
macro_rules! slices {
    ($([$($generics:tt)*] $memory:ty $(, .$field:tt)?;)*) => {$(
        // SAFETY: the slice does not move with the value, and changes only through `&mut` (see the use). Elements are
        // `Pod`: without padding, so that all of its bytes are initialised, and without interior mutability.
        unsafe impl<$($generics)*> IoBuf for $memory {
            fn byte_ptr(&self) -> *const u8 {
                self$(.$field)?[..].as_ptr().cast()
            }

            fn byte_len(&self) -> usize {
                size_of_val(&self$(.$field)?[..])
            }
        }
    )*};
}

macro_rules! slices_mut {
    ($([$($generics:tt)*] $memory:ty $(, .$field:tt)?;)*) => {$(
        slices!([$($generics)*] $memory $(, .$field)?;);

        // SAFETY: as above; any bytes are valid elements.
        unsafe impl<$($generics)*> IoBufMut for $memory {
            fn byte_mut_ptr(&mut self) -> *mut u8 {
                self$(.$field)?[..].as_mut_ptr().cast()
            }
        }
    )*};
}

/// Not generic: with one integer type among them, a literal without a type is of that type.
macro_rules! slices_of {
    ($($element:ty)*) => {$(
        slices_mut! {
            // Unsized, so never moved; what points to it is a buffer by `pointers` below.
            [] [$element];
            // A heap block. The capacity past the length is no part of the slice.
            [] Vec<$element>;
            // An array moves with its value, and so is no buffer itself.
            [const N: usize] Box<[$element; N]>;
            [const N: usize] &mut [$element; N];
        }
        slices! {
            [const N: usize] &[$element; N];
        }
    )*};
}
slices_of!(u8 f32 f64);

slices_mut! {
    // Heap blocks, and memory that is borrowed for as long as the value lives.
    [T: Pod + Send] Elements<Vec<T>>, .0;
    [T: Pod + Send] Elements<Box<[T]>>, .0;
    [T: Pod + Send, const N: usize] Elements<Box<[T; N]>>, .0;
    [T: Pod + Send] Elements<&mut Vec<T>>, .0;
    [T: Pod + Send] Elements<&mut [T]>, .0;
    [T: Pod + Send, const N: usize] Elements<&mut [T; N]>, .0;
}
slices! {
    [T: Pod + Sync] Elements<&Vec<T>>, .0;
    [T: Pod + Sync] Elements<&[T]>, .0;
    [T: Pod + Sync, const N: usize] Elements<&[T; N]>, .0;
    // While it is shared, or in an op, there is no `&mut` to it: `Arc::get_mut` wants to be the only one.
    [T: Pod + Send + Sync] Elements<Arc<Vec<T>>>, .0;
    [T: Pod + Send + Sync] Elements<Arc<[T]>>, .0;
}

#[cfg(feature = "bytes")]
slices_mut! {
    // A heap block, also when it is short (a test watches that its address does not move with it). What was split off
    // it has other bytes, and memory is only taken back from a `BytesMut` that is gone. The spare capacity, which may
    // not be initialised, is no part of the slice.
    [] bytes::BytesMut;
}
#[cfg(feature = "bytes")]
slices! {
    // Heap blocks and statics that all clones share and none changes: `try_into_mut` wants to be the only one. The bytes
    // of an owner (`Bytes::from_owner`) were borrowed from it once, and it is not used again before the last clone drops
    // it; so they are what `Bytes` itself derefs to, by the same right, at one address. That the owner's drop is foreign
    // code is true of every buffer.
    [] bytes::Bytes;
}

/// Pointers to memory: as good as the memory, for as long as they live.
macro_rules! pointers {
    ($([$($bounds:tt)*] $pointer:ty;)*) => {$(
        // SAFETY: what it points to keeps the promise of its own `IoBuf`. It does not move with the pointer, and a
        // reference, or an `Arc` that is held, keeps everyone else from changing it.
        unsafe impl<B: IoBuf + ?Sized $($bounds)*> IoBuf for $pointer {
            fn byte_ptr(&self) -> *const u8 {
                IoBuf::byte_ptr(&**self)
            }

            fn byte_len(&self) -> usize {
                IoBuf::byte_len(&**self)
            }

            fn region(&self) -> Option<RegionId> {
                IoBuf::region(&**self)
            }
        }
    )*};
}

macro_rules! pointers_mut {
    ($($pointer:ty;)*) => {$(
        pointers!([] $pointer;);

        // SAFETY: as above; nothing else points to the memory.
        unsafe impl<B: IoBufMut + ?Sized> IoBufMut for $pointer {
            fn byte_mut_ptr(&mut self) -> *mut u8 {
                IoBufMut::byte_mut_ptr(&mut **self)
            }
        }
    )*};
}

pointers! {
    [+ Sync] &B;
    [+ Sync] Arc<B>;
}
pointers_mut! {
    &mut B;
    Box<B>;
}
