//! Safetensors files, from their first byte to the tensors' contents.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use safetensors::SafeTensors;
use xxhash_rust::xxh3::xxh3_64;

use super::assert_readable;
use crate::failure::Failure;
use crate::swap::tensors::TensorSet;

/// Checks that an accepted file consists of its tensors, one after the other, each with the bytes that the
/// `safetensors` crate finds under its name; and that what that crate accepts is accepted.
pub fn safetensors(input: &[u8]) {
    let file = in_memory(input);
    // A path to a file that has no name.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let expected = SafeTensors::deserialize(input);
    match TensorSet::from_files(&[path]) {
        Ok(set) => {
            let expected = expected.expect("the format's own library takes it too");
            assert_eq!(set.tensors.len(), expected.len());
            let mut at = data(input);
            for tensor in &set.tensors {
                let end = at + usize::try_from(tensor.bytes).expect("a tensor is as large as the file at most");
                let bytes = &input[at..end];
                assert_eq!(expected.tensor(&tensor.name).map(|view| view.data()).ok(), Some(bytes), "{tensor:?}");
                let mut memory = vec![0; bytes.len()];
                let hash = set.load(tensor, &mut memory).expect("it is in the file");
                assert_eq!((memory.as_slice(), hash), (bytes, xxh3_64(bytes)), "{tensor:?}");
                at = end;
            }
            assert_eq!(at, input.len(), "every byte is in a tensor");
        }
        Err(Failure::Failed(error)) => {
            assert_readable(&error);
            assert!(error.contains("/proc/self/fd/"), "which file? {error}");
            let tensors = expected.map_or(0, |tensors| tensors.len());
            assert_eq!(tensors, 0, "the format's own library finds {tensors} tensors: {error}");
        }
        Err(other) => panic!("the file was wrong, and not the command line: {other:?}"),
    }
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
