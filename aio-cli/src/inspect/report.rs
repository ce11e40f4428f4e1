//! The result: an object for programs, tables for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aio::tensor::{SafeTensors, TensorInfo};
use aio_core::{Printable, shown};
use comfy_table::CellAlignment;
use serde::{Serialize, Serializer};

use crate::failure::Failure;
use crate::output::{self, lossy};
use crate::size;

/// The name and version of the object that programs get: `docs/schema/inspect.json`.
const SCHEMA: &str = "tensor-aio/inspect/1";

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    paths: Vec<PathReport>,
}

/// What one path of the command line stands for.
#[derive(Debug, Serialize)]
pub(crate) struct PathReport {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    /// Why it cannot be read; then there is nothing below.
    error: Option<String>,
    #[serde(serialize_with = "lossy_list")]
    files: Vec<PathBuf>,
    /// Bytes of all tensors.
    bytes: u64,
    /// How many tensors have checksums.
    checksums: usize,
    metadata: BTreeMap<String, String>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    /// Which of the files it is in.
    file: usize,
    /// Its first byte in that file.
    offset: u64,
    /// 16 hexadecimal digits.
    checksum: Option<String>,
}

impl Report {
    pub(crate) fn new(paths: Vec<PathReport>) -> Self {
        Self { schema: SCHEMA, paths }
    }

    /// Whether there is anything to show to people.
    pub(crate) fn has_tables(&self) -> bool {
        self.paths.iter().any(|path| path.error.is_none())
    }

    /// Fails with the reason of each path that could not be read.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let reasons: Vec<_> = self.paths.iter().filter_map(|path| path.error.as_deref()).collect();
        if reasons.is_empty() { Ok(()) } else { Err(Failure::Failed(reasons.join("\n"))) }
    }
}

impl PathReport {
    pub(crate) fn of(path: &Path, model: &SafeTensors) -> Self {
        let tensors = model.tensors();
        Self {
            path: path.to_owned(),
            error: None,
            files: model.files().map(Path::to_owned).collect(),
            bytes: model.byte_len(),
            checksums: tensors.iter().filter(|info| info.checksum().is_some()).count(),
            metadata: model.metadata().clone(),
            tensors: tensors.iter().map(Tensor::of).collect(),
        }
    }

    pub(crate) fn failed(path: &Path, error: String) -> Self {
        Self {
            path: path.to_owned(),
            error: Some(error),
            files: Vec::new(),
            bytes: 0,
            checksums: 0,
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
        }
    }

    /// What is in it, in a line.
    fn summary(&self) -> String {
        let (path, bytes) = (shown(&self.path), size::show(self.bytes));
        let (tensors, files) = (output::count(self.tensors.len(), "tensor"), output::count(self.files.len(), "file"));
        let checksums = match self.checksums {
            0 => "no checksums".to_owned(),
            all if all == self.tensors.len() => "all with checksums".to_owned(),
            some => format!("{some} with checksums"),
        };
        match self.tensors.len() {
            0 => format!("{path}: no tensors in {files}"),
            _ => format!("{path}: {tensors}, {bytes} in {files}, {checksums}"),
        }
    }

    /// The name of a file, as a path below the folder that was named or that the index is in.
    fn file_name(&self, file: usize) -> String {
        let Some(file) = self.files.get(file) else { return String::new() };
        let folders = [Some(self.path.as_path()), self.path.parent()];
        let below = folders.into_iter().flatten().find_map(|folder| file.strip_prefix(folder).ok());
        shown(below.unwrap_or(file)).to_string()
    }
}

impl Tensor {
    fn of(info: &TensorInfo) -> Self {
        Self {
            name: info.name().to_owned(),
            dtype: info.dtype().to_string(),
            shape: info.shape().to_vec(),
            bytes: info.byte_len(),
            file: info.file(),
            offset: info.range().start,
            checksum: info.checksum().map(output::checksum),
        }
    }

    fn cells(&self) -> [String; 4] {
        let name = if self.name.is_empty() { "\"\"".to_owned() } else { Printable(&self.name).to_string() };
        [name, self.dtype.clone(), format!("{:?}", self.shape), size::show(self.bytes)]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.paths.iter().filter(|path| path.error.is_none());
        shown.next().map_or(Ok(()), |path| write!(f, "{path}"))?;
        shown.try_for_each(|path| write!(f, "\n\n{path}"))
    }
}

impl fmt::Display for PathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The column of sizes.
        const SIZE: usize = 3;
        f.write_str(&output::sentence(&self.summary()))?;
        if !self.tensors.is_empty() {
            let mut table = if self.files.len() > 1 {
                let row = |tensor: &Tensor| {
                    let [name, dtype, shape, size] = tensor.cells();
                    [name, dtype, shape, size, self.file_name(tensor.file)]
                };
                output::table(["tensor", "dtype", "shape", "size", "file"], self.tensors.iter().map(row))
            } else {
                output::table(["tensor", "dtype", "shape", "size"], self.tensors.iter().map(Tensor::cells))
            };
            if let Some(sizes) = table.column_mut(SIZE) {
                sizes.set_cell_alignment(CellAlignment::Right);
            }
            write!(f, "\n{table}")?;
        }
        for (key, value) in &self.metadata {
            let line = format!("{} = {}", Printable(key), Printable(value));
            write!(f, "\n{}", output::wrap("metadata: ", "  ", &line, output::width()))?;
        }
        Ok(())
    }
}

/// Serializes paths as [`lossy`] does one.
fn lossy_list<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}
