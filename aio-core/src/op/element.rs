//! Numbers, of which typed buffers are made.
#![allow(unsafe_code)]

use std::any::type_name;

use crate::error::{Error, Result};

/// A plain number, such as an element of a tensor, whose bytes can be written to a file and read from one.
///
/// All primitive integers and floats are elements. The bytes go to the file as they lie in memory, in the machine's
/// byte order.
///
/// # Safety
///
/// - A value has no padding: each of its bytes is initialised.
/// - Bytes of any values are a valid value of the type.
///
/// (What can change behind a shared reference, an `UnsafeCell`, a `Cell`, an atomic, is left out by `Copy`.)
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plain number, and a file holds bytes",
    label = "not an `Element`",
    note = "elements are the primitive integers and floats, and types that implement `Element`"
)]
pub unsafe trait Element: Copy + Send + Sync + 'static {}

macro_rules! elements {
    ($($number:ty)*) => {$(
        // SAFETY: a primitive number has no padding and no invalid values.
        unsafe impl Element for $number {}
    )*};
}
elements!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

/// Memory of any [`Element`]s as a buffer: `Elements(vec![1i64, 2, 3])`.
///
/// `M` is `Vec<T>`, `Box<[T]>`, `Arc<[T]>`, `&[T]` or `&mut [T]`. Of `u8`, `f32` and `f64` these are buffers as they are.
/// Others are not, because a literal without a type would no longer be a byte: `vec![0; 4096]` would be 16 KiB of `i32`.
///
/// ```
/// use aio::buf::{Element, Elements};
///
/// #[derive(Debug, Clone, Copy, PartialEq)]
/// #[repr(transparent)]
/// struct Bf16(u16);
///
/// // SAFETY: it is laid out as a u16, which has no padding and no invalid values.
/// unsafe impl Element for Bf16 {}
///
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("weights");
/// let aio = aio::builder().build()?;
/// let Elements(weights) = aio.write_path(&path, Elements(vec![Bf16(0x3f80); 1000])).wait()?;
/// let Elements(back) = aio.read_path(&path, Elements(vec![Bf16(0); 1000])).wait()?;
/// assert_eq!(back, weights);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Elements<M>(pub M);

/// `bytes` as elements.
///
/// # Errors
///
/// [`Error::InvalidInput`] unless they are a whole number of elements that begins at a multiple of `T`'s alignment.
pub(crate) fn slice_of<T: Element>(bytes: &[u8]) -> Result<&[T]> {
    // SAFETY: any bytes are a `T` (contract of `Element`).
    match unsafe { bytes.align_to() } {
        ([], elements, []) => Ok(elements),
        _ => Err(no_slice_of::<T>(bytes)),
    }
}

/// As [`slice_of`], to be changed.
pub(crate) fn slice_of_mut<T: Element>(bytes: &mut [u8]) -> Result<&mut [T]> {
    // Looked at first, for what the error says.
    slice_of::<T>(bytes)?;
    // SAFETY: as above; and any `T` that is stored leaves initialised bytes.
    Ok(unsafe { bytes.align_to_mut() }.1)
}

fn no_slice_of<T>(bytes: &[u8]) -> Error {
    let (len, address, element) = (bytes.len(), bytes.as_ptr(), type_name::<T>());
    let (size, align) = (size_of::<T>(), align_of::<T>());
    Error::InvalidInput(format!(
        "{len} bytes at {address:?} are no slice of {element}, of {size} bytes each at a multiple of {align}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy)]
    #[repr(align(64))]
    struct Wide(#[allow(dead_code, reason = "only its size matters")] [u8; 64]);

    // SAFETY: 64 bytes that fill it.
    unsafe impl Element for Wide {}

    #[derive(Debug, Clone, Copy)]
    struct Nothing;

    // SAFETY: it has no bytes.
    unsafe impl Element for Nothing {}

    #[test]
    fn only_whole_elements_at_their_alignment() {
        let mut memory = [Wide([7; 64]); 2];
        // SAFETY: a `Wide` has no padding.
        let bytes: &mut [u8] = unsafe { memory.align_to_mut() }.1;
        assert_eq!(slice_of::<u8>(bytes).unwrap(), [7; 128]);
        assert_eq!(slice_of::<Wide>(bytes).unwrap().len(), 2);
        assert_eq!(slice_of_mut::<u32>(bytes).unwrap(), [0x0707_0707; 32]);
        assert_eq!(slice_of::<f32>(&bytes[4..12]).unwrap().len(), 2);
        assert!(slice_of::<u32>(&bytes[..0]).unwrap().is_empty());
        for (from, to) in [(0, 7), (1, 5), (2, 6), (1, 2), (0, 1)] {
            let message = slice_of::<u32>(&bytes[from..to]).unwrap_err().to_string();
            assert!(message.contains(&format!("{} bytes", to - from)) && message.contains("u32"), "{message}");
            slice_of_mut::<u32>(&mut bytes[from..to]).unwrap_err();
        }
        slice_of::<Wide>(&bytes[8..72]).unwrap_err();
        slice_of::<Nothing>(bytes).unwrap_err();
    }
}
