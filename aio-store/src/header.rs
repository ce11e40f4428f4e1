//! The header of a safetensors file: read from files that are not trusted, and written.
//!
//! ```text
//! 0      8   N, the length of the header, little-endian
//! 8      N   a JSON object, padded with spaces: "__metadata__", of strings, and an entry per tensor
//! 8 + N  ..  the tensors, one after the other, no gap
//! ```
//!
//! The `safetensors` crate decides what is accepted; that a name is there twice is refused here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::IgnoredAny;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::entries::Entries;
use crate::error::Quoted;

/// Bytes of the header's length field.
pub(crate) const LENGTH_FIELD: u64 = 8;
/// The longest header that the format allows, in bytes.
const LARGEST_HEADER: u64 = 100_000_000;
/// The key of the user's metadata in a header.
const METADATA: &str = "__metadata__";
/// The key of the checksums in the metadata: a JSON object of names and XXH3-64, each 16 hexadecimal digits.
pub(crate) const CHECKSUMS: &str = "tensor_aio.xxh3_64.v1";
/// What our data sections begin at a multiple of, in bytes: what direct I/O asks for at most.
pub(crate) const ALIGNMENT: u64 = 4096;
/// Characters of an error that quotes a header, which may be of any length.
const QUOTE: usize = 300;

/// A header that was read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Header {
    /// Tensors in the order of their bytes.
    pub(crate) entries: Vec<Entry>,
    /// The user's, without the checksums.
    pub(crate) metadata: BTreeMap<String, String>,
    /// There are checksums, which cannot be read.
    pub(crate) unreadable_checksums: bool,
}

/// A tensor in its file.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(crate) range: Range<u64>,
    pub(crate) checksum: Option<u64>,
}

/// The length of the header, from the first bytes of a file of `len` bytes.
pub(crate) fn length(field: [u8; LENGTH_FIELD as usize], len: u64) -> Result<u64, String> {
    let header = u64::from_le_bytes(field);
    if header > LARGEST_HEADER {
        return Err(format!(
            "its first 8 bytes give a header of {header} bytes, and the format allows {LARGEST_HEADER}"
        ));
    }
    let most = len.saturating_sub(LENGTH_FIELD);
    if header > most {
        return Err(format!("its header should have {header} bytes, of which {most} are there: it was cut off"));
    }
    Ok(header)
}

/// Parses the JSON of a header; the file has `present` bytes behind it.
pub(crate) fn parse(header: &[u8], present: u64) -> Result<Header, String> {
    let bad = |error: serde_json::Error| format!("bad header: {:.QUOTE$}", error.to_string());
    let Entries::<IgnoredAny>(names) = serde_json::from_slice(header).map_err(bad)?;
    // [`Metadata`] keeps the last tensor of a name, and calls the offset of another one invalid if that leaves a hole.
    let mut seen = HashSet::new();
    if let Some((name, _)) = names.iter().find(|(name, _)| !seen.insert(name)) {
        return Err(format!("bad header: two tensors have the name {}", Quoted(name)));
    }
    let parsed: Metadata = serde_json::from_slice(header).map_err(bad)?;
    let described = parsed.data_len() as u64;
    if described != present {
        return Err(format!("its header describes {described} bytes of tensors, and {present} are there"));
    }
    let mut metadata: BTreeMap<_, _> = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
    let text = metadata.remove(CHECKSUMS);
    let checksums = text.as_deref().map_or_else(|| Some(HashMap::new()), read_checksums);
    let unreadable_checksums = checksums.is_none();
    let checksums = checksums.unwrap_or_default();
    let data = LENGTH_FIELD + header.len() as u64;
    let entry = |name: String| {
        let TensorInfo { dtype, shape, data_offsets: (begin, end) } = parsed.info(&name)?.clone();
        let checksum = checksums.get(&name).copied();
        Some(Entry { name, dtype, shape, range: data + begin as u64..data + end as u64, checksum })
    };
    let entries = parsed.offset_keys().into_iter().filter_map(entry).collect();
    Ok(Header { entries, metadata, unreadable_checksums })
}

/// `None` if it is not what this version writes.
fn read_checksums(text: &str) -> Option<HashMap<String, u64>> {
    let digits: HashMap<String, String> = serde_json::from_str(text).ok()?;
    let number = |(name, digits): (String, String)| {
        let is_fixed = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        Some((name, u64::from_str_radix(&digits, 16).ok().filter(|_| is_fixed)?))
    };
    digits.into_iter().map(number).collect()
}

/// The header of a file that is to be written: its length is known before the checksums are.
#[derive(Debug)]
pub(crate) struct NewHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
    /// Bytes before the data section, a multiple of [`ALIGNMENT`].
    data: u64,
    /// Bytes of the data section.
    data_len: u64,
}

impl NewHeader {
    /// Lays tensors out one after the other, with checksums or without.
    pub(crate) fn new(
        metadata: BTreeMap<String, String>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
        with_checksums: bool,
    ) -> Result<Self, String> {
        let mut end = 0usize;
        let mut laid_out = Vec::new();
        for (name, dtype, shape) in tensors {
            let bytes = byte_len(dtype, &shape).map_err(|why| format!("tensor {name:?} {why}"))?;
            let next = end.checked_add(bytes).filter(|next| i64::try_from(*next).is_ok());
            let next = next.ok_or("the tensors are longer together than a file can be")?;
            laid_out.push((name, TensorInfo { dtype, shape, data_offsets: (end, next) }));
            end = next;
        }
        let mut header = Self { metadata, tensors: laid_out, data: 0, data_len: end as u64 };
        let zeros = vec![0; header.tensors.len()];
        let json = header.json(with_checksums.then_some(&zeros[..]))?;
        header.data = (LENGTH_FIELD + json.len() as u64).next_multiple_of(ALIGNMENT);
        if header.data - LENGTH_FIELD > LARGEST_HEADER {
            let len = json.len();
            return Err(format!("the header would have {len} bytes, and the format allows {LARGEST_HEADER}"));
        }
        Ok(header)
    }

    /// First byte of the data section.
    pub(crate) fn data(&self) -> u64 {
        self.data
    }

    /// Bytes of the whole file.
    pub(crate) fn file_len(&self) -> u64 {
        self.data + self.data_len
    }

    /// The bytes of a tensor in the file.
    pub(crate) fn range(&self, tensor: usize) -> Range<u64> {
        let (begin, end) = self.tensors[tensor].1.data_offsets;
        self.data + begin as u64..self.data + end as u64
    }

    /// The names of all tensors, and the bytes of them together.
    pub(crate) fn names_and_bytes(&self) -> (Vec<String>, u64) {
        (self.tensors.iter().map(|(name, _)| name.clone()).collect(), self.data_len)
    }

    pub(crate) fn name(&self, tensor: usize) -> &str {
        &self.tensors[tensor].0
    }

    /// All bytes before the data section.
    pub(crate) fn bytes(&self, checksums: Option<&[u64]>) -> Result<Vec<u8>, String> {
        let len = usize::try_from(self.data).map_err(|error| error.to_string())?;
        let mut bytes = (self.data - LENGTH_FIELD).to_le_bytes().to_vec();
        bytes.extend(self.json(checksums)?);
        if bytes.len() > len {
            return Err("its header has grown".to_owned());
        }
        bytes.resize(len, b' ');
        Ok(bytes)
    }

    fn json(&self, checksums: Option<&[u64]>) -> Result<Vec<u8>, String> {
        let mut metadata = self.metadata.clone();
        if let Some(checksums) = checksums.filter(|checksums| !checksums.is_empty()) {
            let names = self.tensors.iter().map(|(name, _)| name.as_str());
            let digits = checksums.iter().map(|checksum| format!("{checksum:016x}"));
            let text = serde_json::to_string(&Map(names.zip(digits).collect())).map_err(|error| error.to_string())?;
            metadata.insert(CHECKSUMS.to_owned(), text);
        }
        serde_json::to_vec(&Json { metadata: &metadata, tensors: &self.tensors }).map_err(|error| error.to_string())
    }
}

/// The bytes of a tensor.
pub(crate) fn byte_len(dtype: Dtype, shape: &[usize]) -> Result<usize, String> {
    let elements = shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize()));
    let bits = bits.ok_or_else(|| format!("has a shape, {shape:?}, of more bytes than there can be"))?;
    if bits % 8 != 0 {
        return Err(format!("has {bits} bits ({shape:?} of {dtype}), which are no whole bytes"));
    }
    Ok(bits / 8)
}

/// The name of the metadata, which no tensor can have.
pub(crate) fn is_reserved(name: &str) -> bool {
    name == METADATA
}

struct Json<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [(String, TensorInfo)],
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// A map in the order of its entries.
struct Map<'a>(Vec<(&'a str, String)>);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
