//! Numbers as bytes, and bytes as numbers.

use std::any::type_name;
use std::ops::{Deref, DerefMut};

pub(crate) use bytemuck::Pod;

use crate::error::{Error, Result};

/// Memory of any plain numbers as a buffer: `Elements(vec![1i64, 2, 3])`.
///
/// `M` is `Vec<T>`, `Box<[T]>`, `Box<[T; N]>`, `Arc<[T]>`, `Arc<Vec<T>>`, or a reference to a `Vec<T>`, slice or
/// array. `T` is [`bytemuck::Pod`]: a primitive integer or float, an array of these, a struct that derives it,
/// `half::f16` and `half::bf16` with half's feature `bytemuck`. Bytes go to the file as they lie in memory, in the
/// machine's byte order.
///
/// Memory of `u8`, `f32` and `f64` is a buffer as it is. With other numbers among them, a literal without a type
/// would no longer be a byte: `vec![0; 4096]` would be 16 KiB of `i32`, as it is in `Elements(vec![0; 4096])`.
///
/// ```
/// use aio::buf::Elements;
///
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("tokens");
/// let aio = aio::builder().build()?;
/// let tokens = aio.write_path(&path, Elements(vec![50_256u32; 1000])).wait()?;
/// let Elements(back) = aio.read_path(&path, Elements(vec![0u32; 1000])).wait()?;
/// assert_eq!(back, *tokens);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Elements<M>(pub M);

impl<M> Deref for Elements<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> DerefMut for Elements<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.0
    }
}

/// `bytes` as elements.
///
/// # Errors
///
/// [`Error::InvalidInput`] unless they are a whole number of elements that begins at a multiple of `T`'s alignment.
pub(crate) fn slice_of<T: Pod>(bytes: &[u8]) -> Result<&[T]> {
    bytemuck::try_cast_slice(bytes).map_err(|_| no_slice_of::<T>(bytes))
}

/// As [`slice_of`], to be changed.
pub(crate) fn slice_of_mut<T: Pod>(bytes: &mut [u8]) -> Result<&mut [T]> {
    // Looked at first, for what the error says.
    slice_of::<T>(bytes)?;
    Ok(bytemuck::cast_slice_mut(bytes))
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

    #[test]
    fn only_whole_elements_at_their_alignment() {
        let mut memory = [u128::MAX / 255 * 7; 8];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        assert_eq!(slice_of::<u8>(bytes).unwrap(), [7; 128]);
        assert_eq!(slice_of::<[u64; 8]>(bytes).unwrap().len(), 2);
        assert_eq!(slice_of_mut::<u32>(bytes).unwrap(), [0x0707_0707; 32]);
        assert_eq!(slice_of::<f32>(&bytes[4..12]).unwrap().len(), 2);
        assert!(slice_of::<u32>(&bytes[..0]).unwrap().is_empty());
        for (from, to) in [(0, 7), (1, 5), (2, 6), (1, 2), (0, 1)] {
            let message = slice_of::<u32>(&bytes[from..to]).unwrap_err().to_string();
            assert!(message.contains(&format!("{} bytes", to - from)) && message.contains("u32"), "{message}");
            slice_of_mut::<u32>(&mut bytes[from..to]).unwrap_err();
        }
        slice_of::<u128>(&bytes[8..40]).unwrap_err();
        slice_of::<()>(bytes).unwrap_err();
    }
}
