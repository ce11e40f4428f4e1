//! Safetensors files, from their first byte to the tensors' contents.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use aio::AioHandle;
use aio::tensor::{Error, SafeTensors};
use nix::sys::memfd::{MFdFlags, memfd_create};
use safetensors::SafeTensors as Reference;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::assert_readable;

/// Memory for tensors and chunks of files, in bytes; those of an input take far less.
const ARENA: u64 = 64 << 20;

/// Checks that `SafeTensors` accepts exactly what the `safetensors` crate accepts, but for a name that is there twice;
/// that it then has the same tensors with the same bytes, one after the other to the end of the file; and that their
/// checksums are told right from wrong.
pub fn safetensors(input: &[u8]) {
    let file = in_memory(input);
    // A path to a file that has no name.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let expected = Reference::deserialize(input);
    match SafeTensors::open(&engine(), path) {
        Ok(model) => {
            let expected = expected.expect("the format's own library takes it too");
            assert_same(&model, &expected, input);
            assert_verified(&model, input);
        }
        Err(error @ Error::Malformed { .. }) => {
            let error = error.to_string();
            assert_readable(&error);
            assert!(error.contains("/proc/self/fd/"), "which file? {error}");
            if error.contains("two tensors have the name") {
                assert!(names(input).has_twice(), "no name is there twice: {error}");
            } else {
                assert!(expected.is_err(), "the format's own library takes it: {error}");
            }
        }
        Err(other) => panic!("the file was wrong, and nothing else: {other}"),
    }
}

/// An engine is slow to start: all inputs share one.
fn engine() -> AioHandle {
    static ENGINE: OnceLock<AioHandle> = OnceLock::new();
    let start = || aio::builder().arena_limit(ARENA).build().expect("a backend works here");
    ENGINE.get_or_init(start).clone()
}

fn assert_same(model: &SafeTensors, expected: &Reference<'_>, input: &[u8]) {
    assert_eq!(model.tensors().len(), expected.len());
    let loaded = model.load().expect("the tensors are in the file");
    let mut at = data(input);
    for info in model.tensors() {
        let view = expected.tensor(info.name()).expect("it has the same names");
        let bytes = &input[at..at + view.data().len()];
        assert_eq!(info.range(), at as u64..(at + bytes.len()) as u64, "{info:?}");
        assert_eq!((info.dtype(), info.shape(), bytes), (view.dtype(), view.shape(), view.data()), "{info:?}");
        let tensor = &loaded[info.name()];
        assert_eq!((tensor.dtype(), tensor.shape(), tensor.bytes()), (view.dtype(), view.shape(), bytes), "{info:?}");
        at += bytes.len();
    }
    assert_eq!((at, loaded.len()), (input.len(), expected.len()), "every byte is in a tensor");
}

fn assert_verified(model: &SafeTensors, input: &[u8]) {
    let saved = checksums(input);
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for verified in model.verify() {
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                assert!(error.to_string().contains("the checksums in its header cannot be read"), "{error}");
                assert!(!are_checksums(&saved), "{saved}");
                model.verified(true).load().expect_err("there is nothing to trust");
                return;
            }
        };
        let range = verified.info.range();
        let sum = xxh3_64(&input[range.start as usize..range.end as usize]);
        assert_eq!(verified.found, verified.info.checksum().map(|_| sum), "{:?}", verified.info);
        assert_eq!(verified.is_damaged(), verified.info.checksum().is_some_and(|saved| saved != sum));
        if let Some(checksum) = verified.info.checksum() {
            let digits = saved[verified.info.name()].as_str().map(str::to_ascii_lowercase);
            assert_eq!(digits, Some(format!("{checksum:016x}")), "{:?}", verified.info);
        }
        found.push(verified.info);
        damaged.extend(verified.is_damaged().then_some(verified.info.name()));
    }
    assert_eq!(found, model.tensors().iter().collect::<Vec<_>>());
    match model.verified(true).load() {
        Ok(_) => assert!(damaged.is_empty(), "{damaged:?}"),
        Err(error) => {
            assert!(matches!(&error, Error::Mismatch { name, .. } if damaged.contains(&name.as_str())), "{error}");
            assert_readable(&error.to_string());
            assert!(error.to_string().contains("/proc/self/fd/"), "which file? {error}");
        }
    }
}

/// What the metadata has for checksums; null if that is nothing, or no JSON.
fn checksums(input: &[u8]) -> Value {
    let (_, header) = Reference::read_metadata(input).expect("the file was accepted");
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get("tensor_aio.xxh3_64.v1"));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether all of them are 16 hexadecimal digits.
fn are_checksums(saved: &Value) -> bool {
    let is_checksum = |value: &Value| {
        value
            .as_str()
            .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    saved.as_object().is_some_and(|saved| saved.values().all(is_checksum))
}

/// Offset at which the tensors begin.
fn data(input: &[u8]) -> usize {
    let length = input.first_chunk().expect("8 bytes tell the length of the header");
    8 + usize::try_from(u64::from_le_bytes(*length)).expect("a header is as large as the file at most")
}

fn in_memory(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create(c"safetensors", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
    file.write_all(bytes).expect("room for a small file");
    file
}

/// The names in a header, each as often as it is there.
struct Names(Vec<String>);

fn names(input: &[u8]) -> Names {
    serde_json::from_slice(&input[8..data(input)]).expect("the header is an object")
}

impl Names {
    fn has_twice(mut self) -> bool {
        self.0.sort();
        self.0.windows(2).any(|pair| pair[0] == pair[1])
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;
        impl<'de> Visitor<'de> for OfMap {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut header: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = header.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(OfMap)
    }
}
