//! What is saved is read again, and by the `safetensors` crate; and the other way round.

mod support;

use std::collections::{BTreeMap, HashMap};

use aio::AioHandle;
use aio::tensor::{Dtype, Error, SafeTensors, SaveOptions, TensorSpec, TensorView, save};
use proptest::prelude::*;
use safetensors::SafeTensors as Reference;
use support::{dtypes, pattern};

/// A tensor of a test.
#[derive(Debug, Clone)]
struct Case {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Case {
    fn new(dtype: Dtype, shape: Vec<usize>, seed: u64) -> Self {
        let bits = shape.iter().product::<usize>() * dtype.bitsize();
        Self { dtype, bytes: pattern(seed, bits / 8), shape }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes).unwrap()
    }
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}(\\.[a-z0-9]{1,4}){0,3}", any::<String>(), Just("a/../b\u{1b}\n\"\\\u{0}é".to_owned())]
        .prop_filter("reserved", |name| name != "__metadata__")
}

fn cases() -> impl Strategy<Value = BTreeMap<String, Case>> {
    let shape = prop_oneof![
        prop::collection::vec(0usize..5, 0..4),
        prop::collection::vec(1usize..40, 1..3),
        Just(vec![3, 30_000]),
    ];
    let case = (prop::sample::select(dtypes()), shape, any::<u64>()).prop_map(|(dtype, mut shape, seed)| {
        // Whole bytes.
        if dtype.bitsize() < 8 {
            shape.push(4);
        }
        Case::new(dtype, shape, seed)
    });
    prop::collection::btree_map(names(), case, 0..12)
}

fn check(aio: &AioHandle, path: &std::path::Path, cases: &BTreeMap<String, Case>) {
    let model = SafeTensors::open(aio, path).unwrap();
    assert_eq!(model.tensors().len(), cases.len());
    let same = |name: &str, tensor: &aio::tensor::Tensor| {
        let case = &cases[name];
        assert_eq!((tensor.dtype(), tensor.shape()), (case.dtype, &case.shape[..]), "{name:?}");
        assert!(tensor.bytes() == case.bytes, "{name:?}");
        let alignment = (case.dtype.bitsize() / 8).max(1);
        assert!(tensor.bytes().is_empty() || tensor.bytes().as_ptr().addr().is_multiple_of(alignment), "{name:?}");
    };
    let loaded = model.load().unwrap();
    assert_eq!(loaded.len(), cases.len());
    loaded.iter().for_each(|(name, tensor)| same(name, tensor));
    let mut streamed = 0;
    for read in model.verified(true).stream(1 << 20) {
        let (info, tensor) = read.unwrap();
        same(info.name(), &tensor);
        streamed += 1;
    }
    assert_eq!(streamed, cases.len());
    let mut memory: Vec<_> = cases.iter().map(|(name, case)| (name, vec![0u8; case.bytes.len()])).collect();
    model.verified(true).read_into(memory.iter_mut().map(|(name, memory)| (name, memory))).unwrap();
    assert!(memory.iter().all(|(name, memory)| *memory == cases[*name].bytes));
    for (name, case) in cases {
        same(name, &model.tensor(name).unwrap());
        assert_eq!(model.info(name).unwrap().byte_len(), case.bytes.len() as u64);
    }
}

fn reference(cases: &BTreeMap<String, Case>, metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let views = cases.iter().map(|(name, case)| {
        (name.clone(), safetensors::tensor::TensorView::new(case.dtype, case.shape.clone(), &case.bytes).unwrap())
    });
    safetensors::serialize(views, metadata).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ours_is_read_by_us_and_by_the_reference(cases in cases(), checksums: bool, shards: bool, metadata in prop::collection::btree_map(any::<String>(), any::<String>(), 0..3)) {
        let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
        let mut options = SaveOptions::new().checksums(checksums).max_shard_size(20_000);
        for (key, value) in &metadata {
            options = options.metadata(key, value);
        }
        let path = folder.path().join(if shards { "m.safetensors.index.json" } else { "m.safetensors" });
        options.save(&aio, &path, cases.iter().map(|(name, case)| (name, case.view()))).unwrap();
        check(&aio, &path, &cases);
        check(&aio, folder.path(), &cases);
        let model = SafeTensors::open(&aio, &path).unwrap();
        if !cases.is_empty() || !shards {
            prop_assert_eq!(model.metadata(), &metadata);
        }
        for verified in model.verify() {
            let verified = verified.unwrap();
            prop_assert!(!verified.is_damaged());
            let expected = checksums.then(|| xxhash_rust::xxh3::xxh3_64(&cases[verified.info.name()].bytes));
            prop_assert_eq!(verified.found, expected);
        }
        let mut found = 0;
        for file in model.files() {
            let bytes = std::fs::read(file).unwrap();
            let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            prop_assert_eq!((8 + header) % 4096, 0);
            let reference = Reference::deserialize(&bytes).unwrap();
            for (name, view) in reference.iter() {
                let case = &cases[name];
                prop_assert_eq!((view.dtype(), view.shape()), (case.dtype, &case.shape[..]));
                prop_assert!(view.data() == case.bytes);
                found += 1;
            }
        }
        prop_assert_eq!(found, cases.len());
    }

    #[test]
    fn theirs_is_read_by_us(cases in cases(), pad in 0usize..9) {
        let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
        let path = folder.path().join("m.safetensors");
        let mut bytes = reference(&cases, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])));
        // Of any length: then no tensor lies at a multiple of its element's size.
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        bytes.splice(..8, (header + pad as u64).to_le_bytes());
        let end = 8 + header as usize;
        bytes.splice(end..end, vec![b' '; pad]);
        std::fs::write(&path, &bytes).unwrap();
        check(&aio, &path, &cases);
        let model = SafeTensors::open(&aio, &path).unwrap();
        prop_assert_eq!(&model.metadata()["format"], "pt");
    }

    #[test]
    fn slices_are_those_of_a_model(
        dtype in prop::sample::select(dtypes()),
        dimensions in prop::collection::vec((1usize..60, 0usize..60, 0usize..60), 1..4),
        given in 0usize..4,
        wide: bool,
    ) {
        let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
        let path = folder.path().join("m.safetensors");
        let mut shape: Vec<_> = dimensions.iter().map(|(length, ..)| *length).collect();
        let mut ranges: Vec<_> =
            dimensions.iter().map(|&(length, a, b)| a.min(b).min(length)..a.max(b).min(length)).collect();
        ranges.truncate(given);
        if wide || dtype.bitsize() < 8 {
            // Runs that are far from each other, or long.
            shape.push(if dimensions.len() == 1 { 40_000 } else { 4 });
        }
        let case = Case::new(dtype, shape.clone(), 7);
        save(&aio, &path, [("before", Case::new(Dtype::U8, vec![3], 1).view()), ("x", case.view())]).unwrap();
        let model = SafeTensors::open(&aio, &path).unwrap();
        let part = model.slice("x", &ranges).unwrap();
        let expected: Vec<u8> = if dtype.bitsize() < 8 {
            // By rows of whole bytes.
            let row = shape.last().unwrap() * dtype.bitsize() / 8;
            select(&shape[..shape.len() - 1], &ranges).into_iter().flat_map(|at| case.bytes[at * row..(at + 1) * row].to_vec()).collect()
        } else {
            let size = dtype.bitsize() / 8;
            select(&shape, &ranges).into_iter().flat_map(|at| case.bytes[at * size..(at + 1) * size].to_vec()).collect()
        };
        prop_assert!(part.bytes() == expected);
        let lengths: Vec<_> = (0..shape.len()).map(|at| ranges.get(at).map_or(shape[at], |range| range.len())).collect();
        prop_assert_eq!(part.shape(), &lengths[..]);
        let mut memory = vec![0u8; expected.len()];
        model.slice_into("x", &ranges, &mut memory).unwrap();
        prop_assert!(memory == expected);
    }

    #[test]
    fn parts_in_any_order_make_the_same_file(
        sizes in prop::collection::vec(0usize..300_000, 1..6),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..12),
        order in any::<u64>(),
    ) {
        let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
        let cases: BTreeMap<_, _> = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| (format!("t{at}"), Case::new(Dtype::U8, vec![*size], at as u64)))
            .collect();
        let mut parts: Vec<(String, usize, usize)> =
            cases.iter().map(|(name, case)| (name.clone(), 0, case.bytes.len())).collect();
        for (which, place) in cuts {
            let at = which.index(parts.len());
            let (name, begin, end) = parts[at].clone();
            let cut = begin + place.index(end - begin + 1);
            parts[at].2 = cut;
            parts.push((name, cut, end));
        }
        parts.sort_by_key(|(name, begin, _)| support::mix(order ^ support::mix(*begin as u64 ^ name.len() as u64 ^ u64::from(name.as_bytes()[1]) << 32)));
        let specs = || cases.iter().map(|(name, case)| TensorSpec::new(name, case.dtype, case.shape.clone()));
        let paths = ["in order", "in parts"].map(|name| folder.path().join(name));
        let whole = SaveOptions::new().begin(&aio, &paths[0], specs()).unwrap();
        cases.iter().for_each(|(name, case)| whole.write(name, &case.bytes).unwrap());
        whole.finish().unwrap();
        let split = SaveOptions::new().begin(&aio, &paths[1], specs()).unwrap();
        std::thread::scope(|scope| {
            for some in parts.chunks(parts.len().div_ceil(3)) {
                let (split, cases) = (&split, &cases);
                scope.spawn(move || {
                    for (name, begin, end) in some {
                        split.write_at(name, *begin as u64, &cases[name].bytes[*begin..*end]).unwrap();
                    }
                });
            }
        });
        split.finish().unwrap();
        let [whole, split] = paths.map(|path| std::fs::read(path).unwrap());
        prop_assert!(whole == split);
    }
}

/// Which elements, in row-major order, are in these ranges.
fn select(shape: &[usize], ranges: &[std::ops::Range<usize>]) -> Vec<usize> {
    let is_inside = |mut element: usize| {
        shape.iter().enumerate().rev().all(|(at, length)| {
            let index = element % length;
            element /= length;
            ranges.get(at).is_none_or(|range| range.contains(&index))
        })
    };
    (0..shape.iter().product()).filter(|element| is_inside(*element)).collect()
}

#[test]
fn many_tensors() {
    let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
    let path = folder.path().join("m.safetensors");
    let cases: BTreeMap<_, _> = (0..100_000u64)
        .map(|at| (format!("model.layers.{at}.weight"), Case::new(Dtype::U8, vec![(at % 7) as usize], at)))
        .collect();
    save(&aio, &path, cases.iter().map(|(name, case)| (name, case.view()))).unwrap();
    let loaded = SafeTensors::open(&aio, &path).unwrap().load().unwrap();
    assert_eq!(loaded.len(), cases.len());
    assert!(loaded.iter().all(|(name, tensor)| tensor.bytes() == cases[name].bytes));
    let bytes = std::fs::read(&path).unwrap();
    let reference = Reference::deserialize(&bytes).unwrap();
    assert!(reference.iter().all(|(name, view)| view.data() == cases[name].bytes));
}

#[test]
fn more_than_the_blocks_in_memory() {
    let aio = aio::builder().arena_limit(80 << 20).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    // 120 MiB, of which each block of 4 MiB gets one half first and the other much later.
    let tensors: Vec<_> = (0..60).map(|at| (format!("t{at}"), Case::new(Dtype::F32, vec![512 << 10], at))).collect();
    let specs = tensors.iter().map(|(name, case)| TensorSpec::new(name, case.dtype, case.shape.clone()));
    let writer = SaveOptions::new().begin(&aio, &path, specs).unwrap();
    for (name, case) in tensors.iter().step_by(2).chain(tensors.iter().skip(1).step_by(2)) {
        writer.write(name, &case.bytes).unwrap();
        assert!(aio.arena().in_use() <= 64 << 20);
    }
    writer.finish().unwrap();
    let aio = support::handle();
    let loaded = SafeTensors::open(&aio, &path).unwrap().verified(true).load().unwrap();
    assert!(tensors.iter().all(|(name, case)| loaded[name].bytes() == case.bytes));
}

#[test]
fn numbers_of_rust() {
    let (aio, folder) = (support::handle(), tempfile::tempdir().unwrap());
    let path = folder.path().join("m.safetensors");
    let numbers = [1.5f64, -2.0, 3.25];
    save(&aio, &path, [("x", TensorView::of([3], &numbers).unwrap())]).unwrap();
    let tensor = SafeTensors::open(&aio, &path).unwrap().tensor("x").unwrap();
    assert_eq!(tensor.elements::<f64>().unwrap(), numbers);
    let error = tensor.elements::<f32>().unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)) && error.to_string().contains("F64"), "{error}");
    let again = folder.path().join("again.safetensors");
    save(&aio, &again, [("x", &tensor)]).unwrap();
    assert!(std::fs::read(path).unwrap() == std::fs::read(again).unwrap());
}
