//! Memory of every kind that an op takes: its bytes go to the file and come back, on every backend and in every file
//! mode.

mod support;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use aio::backend::RegionId;
use aio::buf::{Elements, IoBuf, IoBufMut};
use aio::op::AlignedLayout;
use aio::{AioHandle, Error};
use bytemuck::{Pod, Zeroable};
use half::bf16;
use proptest::prelude::*;
use support::{each, pattern};

/// What a file must hold after `memory` was written.
fn bytes_of<B: IoBuf>(memory: &B) -> Vec<u8> {
    if memory.byte_len() == 0 {
        return Vec::new();
    }
    // SAFETY: initialised bytes that nothing changes while the value is borrowed (contract of `IoBuf`).
    unsafe { std::slice::from_raw_parts(memory.byte_ptr(), memory.byte_len()) }.to_vec()
}

/// Writes `full`, and reads it back into `empty`.
fn round_trip<W, R>(aio: &AioHandle, path: &Path, full: W, empty: R)
where
    W: IoBuf + 'static,
    R: IoBufMut + 'static,
{
    let expected = bytes_of(&full);
    assert_eq!(empty.byte_len(), expected.len());
    let full = aio.write_path(path, full).wait().unwrap();
    assert!(bytes_of(&full) == expected && std::fs::read(path).unwrap() == expected);
    let back = aio.read_path(path, empty).wait().unwrap();
    assert!(bytes_of(&back) == expected);
}

/// Round trips of `count` elements in each kind of memory that is a buffer as it is.
macro_rules! as_they_are {
    ($aio:expr, $path:expr, $count:expr, $($element:ty)*) => {$({
        let (aio, path, count): (&AioHandle, &Path, usize) = ($aio, $path, $count);
        let full: Vec<$element> = (0..count).map(|at| at as $element).collect();
        let empty = || vec![<$element>::default(); count];
        round_trip(aio, path, full.clone(), empty());
        round_trip(aio, path, full.clone().into_boxed_slice(), empty().into_boxed_slice());
        round_trip(aio, path, Arc::<[$element]>::from(full.clone()), empty());
        round_trip(aio, path, Arc::new(full.clone()), Box::new(empty()));
        round_trip(aio, path, Box::new([3 as $element; 100]), Box::new([<$element>::default(); 100]));
        let array: &'static [$element; 100] = &[7 as $element; 100];
        round_trip(aio, path, array, empty_box::<$element>(100));

        let file = aio.create(path).unwrap();
        let (mut vec, mut array, mut boxed) = (empty(), [<$element>::default(); 10], empty().into_boxed_slice());
        let mut slice = empty();
        let len = size_of_val(&full[..]) as u64;
        aio.scope(|scope| {
            scope.write(&file, &full, 0);
            scope.write(&file, &full[..], len);
            scope.write(&file, &[5 as $element; 10], 2 * len);
        })
        .unwrap();
        aio.scope(|scope| {
            scope.read(&file, &mut vec, 0);
            scope.read(&file, &mut boxed, len);
            scope.read(&file, &mut slice[..], len);
            scope.read(&file, &mut array, 2 * len);
        })
        .unwrap();
        assert!(vec == full && slice == full && boxed[..] == full[..] && array == [5 as $element; 10]);
    })*};
}

fn empty_box<T: Clone + Default>(count: usize) -> Box<[T]>
where
    Box<[T]>: IoBufMut,
{
    vec![T::default(); count].into_boxed_slice()
}

#[test]
fn bytes_and_floats_in_memory_of_every_kind() {
    each(|_, aio, folder| {
        for count in [0, 1, 1024, 30_001] {
            as_they_are!(aio, &folder.path("t"), count, u8 f32 f64);
        }
    });
}

/// Round trips of elements of one type in [`Elements`].
fn elements<T: Pod + Send + Sync + PartialEq + Debug>(aio: &AioHandle, path: &Path, full: &[T], zero: T) {
    let empty = || vec![zero; full.len()];
    round_trip(aio, path, Elements(full.to_vec()), Elements(empty()));
    round_trip(aio, path, Elements(Arc::<[T]>::from(full)), Elements(empty().into_boxed_slice()));
    round_trip(aio, path, Elements(Arc::new(full.to_vec())), Box::new(Elements(empty())));
    let array = Elements(Box::new([full.first().copied().unwrap_or(zero); 10]));
    round_trip(aio, path, array, Elements(Box::new([zero; 10])));

    let (file, owned, zeros) = (aio.create(path).unwrap(), full.to_vec(), [zero; 10]);
    let (mut slice, mut vec, mut array) = (empty(), empty(), [zero; 10]);
    let len = size_of_val(full) as u64;
    aio.scope(|scope| {
        scope.write(&file, Elements(full), 0);
        scope.write(&file, Elements(&owned), len);
        scope.write(&file, Elements(&zeros), 2 * len);
    })
    .unwrap();
    aio.scope(|scope| {
        scope.read(&file, Elements(&mut slice[..]), 0);
        scope.read(&file, Elements(&mut vec), len);
        scope.read(&file, Elements(&mut array), 2 * len);
    })
    .unwrap();
    assert!(slice == full && vec == full && array == zeros);
}

macro_rules! of_numbers {
    ($aio:expr, $path:expr, $($number:ty)*) => {$(
        let full: Vec<$number> = (0..5000u32).map(|at| at.wrapping_mul(0x9e37_79b9) as $number).collect();
        elements($aio, $path, &full, <$number>::default());
        elements($aio, $path, &full[..0], <$number>::default());
    )*};
}

#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Nothing;

#[test]
fn numbers_of_every_type() {
    each(|_, aio, folder| {
        let path = &folder.path("t");
        of_numbers!(aio, path, u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);
        elements(aio, path, &[bf16::from_f32(1.5); 3001], bf16::ZERO);
        elements(aio, path, &[[7u16; 3]; 200], [0; 3]);
        elements(aio, path, &[Line([3; 8]); 200], Line([0; 8]));
        elements(aio, path, &[Nothing; 200], Nothing);
    });
}

/// Not `i32`s, as they would be if two integer types were buffers as they are.
#[test]
fn literals_without_a_type_are_bytes() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        assert_eq!(file.write(vec![7; 1000], 0).wait().unwrap().byte_len(), 1000);
        let mut back = vec![0; 1000];
        aio.scope(|scope| scope.read(&file, &mut back[..], 0)).unwrap();
        assert_eq!(size_of_val(&back[..]), 1000);
        assert_eq!(file.len().unwrap(), 1000);
        file.read(vec![0; 1000], 0).wait().unwrap();
        file.read_at(&mut back, 0).unwrap();
    });
}

fn region_of(memory: impl IoBuf) -> Option<RegionId> {
    memory.region()
}

/// A buffer of the arena stays in its region behind a reference, a box or an `Arc`, and mixed memory is one op.
#[test]
fn pointers_to_buffers_are_those_buffers() {
    each(|_, aio, folder| {
        let mut buffer = aio.alloc(100_000).unwrap();
        buffer.copy_from_slice(&pattern(1, 100_000));
        let (region, address) = (buffer.region(), buffer.byte_ptr());
        assert!(region.is_some() && region_of(&buffer) == region && region_of(&mut buffer) == region);
        let shared = Arc::new(buffer);
        assert!(region_of(shared.clone()) == region && shared.byte_ptr() == address);
        let file = aio.create(folder.path("t")).unwrap();
        let twice = [file.write(shared.clone(), 0), file.write(shared.clone(), 100_000)];
        for ticket in twice {
            ticket.wait().unwrap();
        }
        let mut buffer = Arc::into_inner(shared).expect("both ops gave theirs back");
        let content = std::fs::read(folder.path("t")).unwrap();
        assert!(content[..100_000] == buffer[..] && content[100_000..] == buffer[..]);

        let (mut few, mut floats) = (vec![0; 3], [0f32; 2]);
        file.write_at(&[1, 2, 3, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40], 0).unwrap();
        let mut floats_in = &mut floats;
        let extents: Vec<(u64, &mut dyn IoBufMut)> = vec![(0, &mut few), (4, &mut floats_in), (100_000, &mut buffer)];
        aio.scope(|scope| scope.read_vectored(&file, extents)).unwrap();
        assert!(few == [1, 2, 3] && floats == [1., 2.] && buffer[..] == content[..100_000]);
    });
}

#[test]
fn a_buffer_of_the_arena_is_a_slice_of_numbers() {
    each(|_, aio, folder| {
        let mut buffer = aio.alloc(4000).unwrap();
        for (at, number) in buffer.as_mut_slice_of::<f32>().unwrap().iter_mut().enumerate() {
            *number = at as f32 / 2.;
        }
        let buffer = aio.write_path(folder.path("t"), buffer).wait().unwrap();
        let numbers: Vec<f32> = (0..1000).map(|at| at as f32 / 2.).collect();
        assert_eq!(buffer.as_slice_of::<f32>().unwrap(), numbers);
        assert_eq!(buffer.as_slice_of::<u128>().unwrap().len(), 250);
        assert_eq!(aio.read_path(folder.path("t"), vec![0f32; 1000]).wait().unwrap(), numbers);

        let mut odd = aio.alloc(4001).unwrap();
        let message = odd.as_slice_of::<f32>().unwrap_err().to_string();
        assert!(message.contains("4001 bytes") && message.contains("f32"), "{message}");
        assert!(matches!(odd.as_mut_slice_of::<u16>(), Err(Error::InvalidInput(_))));
        assert!(aio.alloc(0).unwrap().as_slice_of::<f64>().unwrap().is_empty());
    });
}

/// Owners of [`bytes::Bytes`] are foreign code, whose bytes are theirs until the op gives the last clone back.
#[cfg(feature = "bytes")]
#[test]
fn shared_bytes_are_written_and_growing_ones_read() {
    use bytes::{Bytes, BytesMut};

    struct Owner(Vec<u8>, std::sync::mpsc::Sender<()>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.fill(0);
            self.1.send(()).unwrap();
        }
    }

    each(|_, aio, folder| {
        let (path, content) = (&folder.path("t"), pattern(1, 50_000));
        let empty = || BytesMut::zeroed(50_000);
        round_trip(aio, path, Bytes::from(content.clone()), empty());
        round_trip(aio, path, Bytes::copy_from_slice(&content).slice(1..), Box::new(BytesMut::zeroed(49_999)));
        round_trip(aio, path, Bytes::from_static(b"static"), BytesMut::zeroed(6));
        round_trip(aio, path, Bytes::new(), BytesMut::new());

        // The kernel has an address while the value moves into the op and back.
        let mut moved = [Bytes::copy_from_slice(b"x"), Bytes::from(vec![1; 5]), Bytes::from_static(b"abc")];
        let before = moved.each_ref().map(IoBuf::byte_ptr);
        moved.rotate_left(1);
        assert_eq!([2, 0, 1].map(|at| moved[at].byte_ptr()), before);
        let mut moved = [BytesMut::from(&b"x"[..]), BytesMut::zeroed(5)];
        let before = moved.each_ref().map(IoBuf::byte_ptr);
        moved.swap(0, 1);
        assert_eq!([1, 0].map(|at| moved[at].byte_ptr()), before);

        let (dropped, drops) = std::sync::mpsc::channel();
        let owned = Bytes::from_owner(Owner(content.clone(), dropped));
        let ticket = aio.write_path(path, owned.slice(10..));
        drop(owned);
        let back = ticket.wait().unwrap();
        assert!(drops.try_recv().is_err() && back == content[10..]);
        drop(back);
        drops.recv().unwrap();
        assert!(std::fs::read(path).unwrap() == content[10..]);

        // The initialised bytes only, in its part of a block that is shared.
        let mut whole = BytesMut::with_capacity(100);
        whole.extend_from_slice(b"0123456789");
        let second = whole.split_off(4);
        assert_eq!((whole.byte_len(), second.byte_len()), (4, 6));
        let ticket = aio.read_path(path, second);
        whole.fill(b'x');
        assert_eq!(ticket.wait().unwrap(), content[10..16]);
        assert_eq!(&whole[..], b"xxxx");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Tensors that are laid out keep apart in one file and in one buffer.
    #[test]
    fn tensors_that_are_laid_out_come_back(lens in prop::collection::vec(0usize..30_000, 1..8)) {
        let tensors: Vec<_> = lens.iter().enumerate().map(|(seed, len)| pattern(seed as u64, *len)).collect();
        each(|_, aio, folder| {
            let file = aio.create(folder.path("t")).unwrap();
            let mut layout = AlignedLayout::new(file.alignment());
            let places: Vec<_> = tensors.iter().map(|tensor| layout.push(tensor.len() as u64).unwrap()).collect();
            file.set_len(layout.end()).wait().unwrap();
            aio.scope(|scope| {
                for (tensor, place) in tensors.iter().zip(&places) {
                    scope.write(&file, tensor, place.start);
                }
            })
            .unwrap();
            let all = file.read(aio.alloc(layout.end() as usize).unwrap(), 0).wait().unwrap();
            for (tensor, place) in tensors.iter().zip(&places) {
                assert!(all[place.start as usize..place.end as usize] == tensor[..]);
            }
        });
    }
}

/// Bytes that were direct, staged and buffered, since `before`.
fn ways(aio: &AioHandle, before: aio::Stats) -> [u64; 3] {
    let now = aio.stats();
    [
        now.bytes_direct - before.bytes_direct,
        now.bytes_staged - before.bytes_staged,
        now.bytes_buffered - before.bytes_buffered,
    ]
}

/// What the crate's documentation says of offset, length and address.
#[test]
fn whole_units_at_aligned_addresses_are_direct_and_not_staged() {
    each(|_, aio, folder| {
        let file = aio.create(folder.path("t")).unwrap();
        if !file.is_direct() {
            eprintln!("skipped: no direct I/O here");
            return;
        }
        let mut layout = AlignedLayout::new(file.alignment());
        let unit = layout.unit();
        let tensor = layout.push(10 * unit - 100).unwrap();
        let written = |memory: &[u8], offset| {
            let before = aio.stats();
            aio.scope(|scope| scope.write(&file, memory, offset)).unwrap();
            ways(aio, before)
        };
        let mut buffer = aio.alloc(layout.end() as usize).unwrap();
        buffer.fill(1);
        assert_eq!(written(&buffer, tensor.start), [10 * unit, 0, 0]);
        // The length: the bytes past the last whole unit.
        assert_eq!(written(&buffer[..(10 * unit - 100) as usize], 0), [9 * unit, 0, unit - 100]);
        // The address. Reads and writes go through a buffer of the engine.
        let odd = vec![1; (10 * unit) as usize + 1];
        let odd = if odd.as_ptr().addr().is_multiple_of(2) { &odd[1..] } else { &odd[..odd.len() - 1] };
        assert_eq!(written(odd, 0), [10 * unit, 10 * unit, 0]);
        // The offset: edges on both sides, and memory that is no longer aligned between them.
        assert_eq!(written(&buffer, 100), [9 * unit, 9 * unit, unit]);
    });
}
