//! Memory that an op may own while it is in flight.
//!
//! The kernel gets a bare pointer and keeps using it until the completion is reaped, whatever happens to the future or
//! the ticket in between. So a buffer is *moved* into the op and comes back with the result; the traits here say what
//! a type must promise for that to be sound. Borrowed memory goes through
//! [`AioHandle::scope`](crate::AioHandle::scope), which uses the same traits and waits before the borrow ends.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

use crate::backend::RegionId;
use crate::sync::{Mutex, lock};

/// Memory that can be written to a file.
///
/// # Safety
///
/// - [`as_ptr`](Self::as_ptr) points to [`byte_len`](Self::byte_len) initialised bytes that stay valid and do not move
///   for as long as the value lives, also when the value itself is moved.
/// - Nothing changes these bytes while only a shared reference to the value, or the value itself, is around.
/// - Both, and [`region`](Self::region), answer the same on every call until the value is changed by its owner; a
///   region that is named contains all the bytes.
pub unsafe trait IoBuf: Send {
    /// First byte.
    fn as_ptr(&self) -> *const u8;

    /// Bytes.
    fn byte_len(&self) -> usize;

    /// The arena region that contains the bytes, by which registered memory is found.
    fn region(&self) -> Option<RegionId> {
        None
    }
}

/// Memory that a file can be read into: all its bytes, no more.
///
/// # Safety
///
/// As for [`IoBuf`]; and [`as_mut_ptr`](Self::as_mut_ptr) gives the same address as [`as_ptr`](IoBuf::as_ptr), with
/// which any byte values may be written until the value is used again.
pub unsafe trait IoBufMut: IoBuf {
    /// First byte.
    fn as_mut_ptr(&mut self) -> *mut u8;
}

// SAFETY: a Vec's heap block does not move with the Vec, and only `&mut` access changes its initialised bytes.
unsafe impl IoBuf for Vec<u8> {
    fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn byte_len(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; u8 has no invalid values.
unsafe impl IoBufMut for Vec<u8> {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_slice().as_mut_ptr()
    }
}

// SAFETY: the bytes behind a slice do not move while the reference lives, and a shared reference keeps them unchanged.
unsafe impl IoBuf for &[u8] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn byte_len(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above, and the exclusive reference keeps everyone else away.
unsafe impl IoBuf for &mut [u8] {
    fn as_ptr(&self) -> *const u8 {
        <[u8]>::as_ptr(self)
    }

    fn byte_len(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; the reference is exclusive and u8 has no invalid values.
unsafe impl IoBufMut for &mut [u8] {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        <[u8]>::as_mut_ptr(self)
    }
}

// SAFETY: the count keeps the bytes alive at one address, and nothing gives out `&mut` to them while it is shared or
// inside an op.
unsafe impl IoBuf for Arc<[u8]> {
    fn as_ptr(&self) -> *const u8 {
        (**self).as_ptr()
    }

    fn byte_len(&self) -> usize {
        self.len()
    }
}

/// Boxed slices and arrays: one heap block that does not move with the box.
macro_rules! boxed {
    ($($type:ty, [$($generics:tt)*]);* $(;)?) => {$(
        // SAFETY: the box's heap block does not move with the box, and only `&mut` access changes it.
        unsafe impl<$($generics)*> IoBuf for $type {
            fn as_ptr(&self) -> *const u8 {
                <[u8]>::as_ptr(&self[..])
            }

            fn byte_len(&self) -> usize {
                self.len()
            }
        }

        // SAFETY: as above; u8 has no invalid values.
        unsafe impl<$($generics)*> IoBufMut for $type {
            fn as_mut_ptr(&mut self) -> *mut u8 {
                <[u8]>::as_mut_ptr(&mut self[..])
            }
        }
    )*};
}
boxed!(Box<[u8]>, []; Box<[u8; N]>, [const N: usize]);

/// A borrowed buffer is as good as the buffer, for as long as it is borrowed.
macro_rules! borrowed {
    ($($type:ty, [$($generics:tt)*]);* $(;)?) => {$(
        // SAFETY: the referenced value keeps its own promise, and the borrow keeps everyone from changing it.
        unsafe impl<$($generics)*> IoBuf for &$type where $type: Sync {
            fn as_ptr(&self) -> *const u8 {
                IoBuf::as_ptr(&**self)
            }

            fn byte_len(&self) -> usize {
                IoBuf::byte_len(&**self)
            }

            fn region(&self) -> Option<RegionId> {
                IoBuf::region(&**self)
            }
        }

        // SAFETY: as above, with an exclusive borrow.
        unsafe impl<$($generics)*> IoBuf for &mut $type {
            fn as_ptr(&self) -> *const u8 {
                IoBuf::as_ptr(&**self)
            }

            fn byte_len(&self) -> usize {
                IoBuf::byte_len(&**self)
            }

            fn region(&self) -> Option<RegionId> {
                IoBuf::region(&**self)
            }
        }

        // SAFETY: as above.
        unsafe impl<$($generics)*> IoBufMut for &mut $type {
            fn as_mut_ptr(&mut self) -> *mut u8 {
                IoBufMut::as_mut_ptr(&mut **self)
            }
        }
    )*};
}
pub(crate) use borrowed;
borrowed!(Vec<u8>, []; Box<[u8]>, []);

/// A value that lends its memory to an op in flight.
///
/// The value is kept where moving the `Lent` does not count as using it (a plain field of type `&mut [u8]` would claim
/// exclusive access to the memory each time it moves), and is given out once.
pub(crate) struct Lent<T> {
    value: Mutex<Option<MaybeUninit<T>>>,
}

impl<T> Lent<T> {
    /// Keeps `value`; `describe` gets at its memory first.
    pub(crate) fn new<R>(value: T, describe: impl FnOnce(&mut T) -> R) -> (Self, R) {
        let mut value = MaybeUninit::new(value);
        // SAFETY: initialised one line up.
        let described = describe(unsafe { value.assume_init_mut() });
        (Self { value: Mutex::new(Some(value)) }, described)
    }

    /// Gives the value out, the first time.
    pub(crate) fn take(&self) -> Option<T> {
        let value = lock(&self.value).take();
        // SAFETY: what is in the Option was initialised by `new`, and `take` lets it out once.
        value.map(|value| unsafe { value.assume_init() })
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        let value = self.value.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // SAFETY: as in `take`.
        drop(value.map(|value| unsafe { value.assume_init() }));
    }
}
