//! The memory of tensors: numbers of a known type, memory that is read into or written from.
//!
//! [`Memory`] and [`MemoryMut`] say nothing of where the bytes are, since those of a device have no address here.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aio_core::buf::AlignedBuf;
use bytemuck::Pod;
use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::header::byte_len;

/// A number of Rust's that a [`Dtype`] stands for.
pub trait Element: Pod {
    /// Its dtype.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($number:ty: $dtype:ident),*) => {
        $(impl Element for $number {
            const DTYPE: Dtype = Dtype::$dtype;
        })*
    };
}

elements!(u8: U8, i8: I8, u16: U16, i16: I16, u32: U32, i32: I32, u64: U64, i64: I64, f32: F32, f64: F64);

/// Bytes that are written from. Made of slices of [numbers](Element).
#[derive(Clone, Copy)]
pub struct Memory<'a>(Place<'a>);

#[derive(Clone, Copy)]
enum Place<'a> {
    Host(&'a [u8]),
}

impl<'a> Memory<'a> {
    /// Bytes.
    pub fn len(&self) -> usize {
        match self.0 {
            Place::Host(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the CPU can touch, if they are.
    pub(crate) fn host(self) -> &'a [u8] {
        match self.0 {
            Place::Host(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.len())
    }
}

impl<'a, T: Element> From<&'a [T]> for Memory<'a> {
    fn from(numbers: &'a [T]) -> Self {
        Self(Place::Host(bytemuck::cast_slice(numbers)))
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Memory<'a> {
    fn from(numbers: &'a Vec<T>) -> Self {
        Self::from(&numbers[..])
    }
}

impl<'a> From<&'a AlignedBuf> for Memory<'a> {
    fn from(buffer: &'a AlignedBuf) -> Self {
        Self(Place::Host(buffer))
    }
}

/// Bytes that are read into. Made of mutable slices of [numbers](Element).
pub struct MemoryMut<'a>(PlaceMut<'a>);

enum PlaceMut<'a> {
    Host(&'a mut [u8]),
}

impl<'a> MemoryMut<'a> {
    /// Bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            PlaceMut::Host(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn host(self) -> &'a mut [u8] {
        match self.0 {
            PlaceMut::Host(bytes) => bytes,
        }
    }
}

impl fmt::Debug for MemoryMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryMut({} bytes)", self.len())
    }
}

impl<'a, T: Element> From<&'a mut [T]> for MemoryMut<'a> {
    fn from(numbers: &'a mut [T]) -> Self {
        Self(PlaceMut::Host(bytemuck::cast_slice_mut(numbers)))
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for MemoryMut<'a> {
    fn from(numbers: &'a mut Vec<T>) -> Self {
        Self::from(&mut numbers[..])
    }
}

impl<'a> From<&'a mut AlignedBuf> for MemoryMut<'a> {
    fn from(buffer: &'a mut AlignedBuf) -> Self {
        Self(PlaceMut::Host(buffer))
    }
}

/// A tensor to be saved: memory in row-major order, little-endian.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) memory: Memory<'a>,
}

impl<'a> TensorView<'a> {
    /// A tensor of any dtype.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the memory has another size than dtype and shape, or these are no whole bytes.
    pub fn new(dtype: Dtype, shape: impl Into<Vec<usize>>, memory: impl Into<Memory<'a>>) -> Result<Self> {
        let (shape, memory) = (shape.into(), memory.into());
        let expected = byte_len(dtype, &shape).map_err(|why| Error::InvalidInput(format!("a tensor {why}")))?;
        if memory.len() != expected {
            let len = memory.len();
            return Err(Error::InvalidInput(format!(
                "a tensor of {dtype} and shape {shape:?} has {expected} bytes, and its memory {len}"
            )));
        }
        Ok(Self { dtype, shape, memory })
    }

    /// A tensor of these numbers.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of<T: Element>(shape: impl Into<Vec<usize>>, numbers: &'a [T]) -> Result<Self> {
        Self::new(T::DTYPE, shape, numbers)
    }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { dtype: tensor.dtype, shape: tensor.shape.clone(), memory: Memory(Place::Host(tensor.bytes())) }
    }
}

/// A tensor that was read: row-major, little-endian.
///
/// Its memory, huge pages of the handle's [arena](aio_core::buf::Arena), is shared with the tensors that lay beside it
/// in the file, up to 64 MiB, and is free again when the last of these is dropped. It begins at a multiple of the
/// dtype's size.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    memory: Arc<AlignedBuf>,
    range: Range<usize>,
}

impl Tensor {
    pub(crate) fn new(dtype: Dtype, shape: Vec<usize>, memory: Arc<AlignedBuf>, range: Range<usize>) -> Self {
        Self { dtype, shape, memory, range }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its lengths, the slowest dimension first; of a scalar there are none.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }

    /// Its elements.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if they are of another dtype.
    pub fn elements<T: Element>(&self) -> Result<&[T]> {
        if T::DTYPE != self.dtype {
            return Err(Error::InvalidInput(format!("a tensor of {} holds no {}", self.dtype, T::DTYPE)));
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|error| Error::InvalidInput(error.to_string()))
    }
}
