//! Reads safetensors files: the header first, tensors only on demand.
//!
//! The header places the tensors, so it is not trusted: its length is checked against the file before it is read, and
//! its offsets must cover the rest of the file exactly.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aio_core::shown;
use safetensors::tensor::Metadata;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::failure::one_line;
use crate::size;

/// The place of one tensor in its file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// Bytes of the header's length field.
const LENGTH_FIELD: u64 = 8;

/// The limit that the format sets.
const LARGEST_HEADER: u64 = 100_000_000;

/// Opens a file and lists its tensors by offset. The error is a sentence with the path.
pub(crate) fn open(path: &Path) -> Result<(File, Vec<Entry>), String> {
    let file = open_regular(path).map_err(|reason| format!("cannot read {}: {reason}", shown(path)))?;
    match entries(&file) {
        Ok(entries) => Ok((file, entries)),
        Err(reason) => Err(format!("{} is not a usable safetensors file: {reason}", shown(path))),
    }
}

/// Checks the type before it opens: opening a FIFO would wait for a writer.
fn open_regular(path: &Path) -> Result<File, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("it is a folder; name the safetensors files in it".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|error| error.to_string())
}

fn entries(file: &File) -> Result<Vec<Entry>, String> {
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    let header_len = header_length(file, len)?;
    let mut header = vec![0; usize::try_from(header_len).map_err(|error| error.to_string())?];
    file.read_exact_at(&mut header, LENGTH_FIELD).map_err(|error| format!("its header cannot be read: {error}"))?;

    // The error may quote the header, whose names and types can be anything.
    let bad = |error: serde_json::Error| format!("bad header: {}", one_line(&error.to_string()));
    let once_each = || serde_json::from_slice(&header).map(|Names| ()).map_err(bad);
    let metadata: Metadata = serde_json::from_slice(&header).or_else(|error| once_each().and(Err(bad(error))))?;
    let data = LENGTH_FIELD + header_len;
    let (described, present) = (metadata.data_len() as u64, len - data);
    if described != present {
        once_each()?;
        return Err(format!("its header describes {described} bytes of tensors, and {present} are there"));
    }
    let entry = |name: String| {
        let (begin, end) = metadata.info(&name)?.data_offsets;
        Some(Entry { name, offset: data + begin as u64, bytes: (end - begin) as u64 })
    };
    Ok(metadata.offset_keys().into_iter().filter_map(entry).collect())
}

/// Reads only the names of a header, and fails if one is there twice. [`Metadata`] keeps the last tensor of a name, and
/// calls the offset of another one invalid if that leaves a hole.
struct Names;

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut header: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, IgnoredAny)) = header.next_entry::<String, _>()? {
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format_args!("two tensors have the name {twice:?}")));
            }
        }
        Ok(self)
    }
}

fn header_length(file: &File, len: u64) -> Result<u64, String> {
    let mut field = [0; LENGTH_FIELD as usize];
    match file.read_exact_at(&mut field, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(format!("it has {len} bytes, too few for the length of a header"));
        }
        Err(error) => return Err(error.to_string()),
    }
    let header_len = u64::from_le_bytes(field);
    if header_len > LARGEST_HEADER {
        return Err(format!(
            "its first 8 bytes give a header of {header_len} bytes, and the format allows {LARGEST_HEADER}"
        ));
    }
    if header_len > len - LENGTH_FIELD {
        return Err(format!(
            "its header should have {} and the whole file has {}: it was cut off",
            size::show(header_len),
            size::show(len)
        ));
    }
    Ok(header_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(header_len: u64, header: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [&header_len.to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
        file
    }

    fn refused(header_len: u64, header: &str, data: &[u8]) -> String {
        let file = file_of(header_len, header, data);
        let error = open(file.path()).unwrap_err();
        assert!(error.contains(&*file.path().to_string_lossy()), "{error}");
        error
    }

    fn refused_header(header: &str, data: &[u8]) -> String {
        refused(header.len() as u64, header, data)
    }

    #[test]
    fn tensors_are_listed_by_offset() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]},
            "empty":{"dtype":"F32","shape":[0],"data_offsets":[10,10]},
            "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   "#;
        let file = file_of(header.len() as u64, header, &[0; 10]);
        let (_, entries) = open(file.path()).unwrap();
        let data = 8 + header.len() as u64;
        let entry = |name: &str, offset, bytes| Entry { name: name.to_owned(), offset: data + offset, bytes };
        assert_eq!(entries, [entry("a", 0, 2), entry("b", 2, 8), entry("empty", 10, 0)]);
    }

    #[test]
    fn a_wrong_length_is_refused_before_anything_is_allocated() {
        assert!(refused(u64::MAX, "{}", b"").contains("the format allows"));
        assert!(refused(99_000_000, "{}", b"").contains("it was cut off"));
        let short = tempfile::NamedTempFile::new().unwrap();
        fs::write(short.path(), b"1234567").unwrap();
        assert!(open(short.path()).unwrap_err().contains("it has 7 bytes"));
    }

    #[test]
    fn a_header_that_is_no_header_is_refused() {
        assert!(refused_header("{\"a\":", b"").contains("bad header"));
        assert!(refused_header("[]", b"").contains("bad header"));
        assert!(refused_header("\u{7f}\u{0}", b"").contains("bad header"));
        assert!(refused(2, "", &[0xff, 0xfe]).contains("bad header"));
        assert!(refused(0, "", b"").contains("bad header"));
    }

    #[test]
    fn offsets_that_do_not_cover_the_data_exactly_are_refused() {
        let tensors = |a: &str, b: &str| {
            format!(
                r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{a}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
            )
        };
        for (a, b) in [("[0,4]", "[2,6]"), ("[0,4]", "[8,12]"), ("[4,0]", "[0,4]"), ("[0,5]", "[5,9]")] {
            assert!(refused_header(&tensors(a, b), &[0; 8]).contains("bad header"), "{a} {b}");
        }
        assert!(refused_header(&tensors("[0,-4]", "[0,4]"), &[0; 8]).contains("bad header"));
        assert!(refused_header(&tensors("[0,4]", "[4,8]"), &[0; 7]).contains("describes 8 bytes"));
        assert!(refused_header(&tensors("[0,4]", "[4,8]"), &[0; 9]).contains("9 are there"));
        let overflow = r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
        assert!(refused_header(overflow, &[0; 8]).contains("bad header"));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused_by_name() {
        let tensor = |name: &str, begin: u32| {
            format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{begin},{}]}}"#, begin + 4)
        };
        // The last tensor alone leaves a hole before or behind it.
        for (second, data) in [(4, &[0; 8]), (0, &[0; 8])] {
            let header = format!("{{{},{}}}", tensor("a\\u001b", 0), tensor("a\\u001b", second));
            let error = refused_header(&header, data);
            assert!(error.contains(r#"two tensors have the name "a\u{1b}""#), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).unwrap_err().contains("it is a folder"));
        assert!(open(&dir.path().join("missing")).unwrap_err().contains("No such file"));
        assert!(open(Path::new("/dev/null")).unwrap_err().contains("not a regular file"));
    }
}
