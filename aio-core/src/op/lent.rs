//! Keeping a value while an op uses its memory.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::sync::PoisonError;

use crate::sync::{Mutex, lock};

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
