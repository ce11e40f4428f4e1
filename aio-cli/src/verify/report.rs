//! The result: an object for programs, a table for people.

use std::fmt;
use std::path::{Path, PathBuf};

use aio::tensor::{Error, SafeTensors, Verified};
use aio_core::shown;
use comfy_table::CellAlignment;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, lossy};
use crate::size;

/// The name and version of the object that programs get: `docs/schema/verify.json`.
const SCHEMA: &str = "tensor-aio/verify/1";

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    /// A signal ended it early: the last path was not compared to its end, and others may not be here.
    partial: bool,
    paths: Vec<PathReport>,
    /// Whether nothing is damaged, and every path could be read.
    verified: bool,
}

/// How a path was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// All tensors with checksums are what was saved.
    Intact,
    /// No tensor has a checksum.
    NothingToCompare,
    /// A tensor is not what was saved.
    Damaged,
    /// It could not be read, or not to its end.
    Failed,
    /// A signal ended it early.
    Interrupted,
}

/// What was found of one path of the command line.
#[derive(Debug, Serialize)]
pub(crate) struct PathReport {
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    pub(crate) outcome: Outcome,
    /// Why it could not be read.
    pub(crate) error: Option<String>,
    tensors: usize,
    /// Bytes of all tensors.
    bytes: u64,
    /// How many tensors have checksums.
    checksums: usize,
    /// How many tensors were compared.
    compared: usize,
    /// Bytes of these.
    compared_bytes: u64,
    damaged: Vec<Damaged>,
}

/// A tensor that is not what was saved.
#[derive(Debug, Serialize)]
struct Damaged {
    name: String,
    #[serde(serialize_with = "lossy")]
    file: PathBuf,
    /// The checksum that was saved, and that of the bytes in the file.
    expected: String,
    found: String,
    #[serde(skip)]
    sentence: String,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { schema: SCHEMA, partial: false, paths: Vec::new(), verified: false }
    }

    pub(crate) fn add(&mut self, path: PathReport) {
        self.paths.push(path);
        let is_good = |path: &PathReport| matches!(path.outcome, Outcome::Intact | Outcome::NothingToCompare);
        self.verified = self.paths.iter().all(is_good);
    }

    /// Marks it as ended early, by a signal.
    pub(crate) fn interrupted(&mut self) {
        (self.partial, self.verified) = (true, false);
    }

    /// Fails if something is wrong, with the first sentence about it.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let sentences: Vec<_> = self.paths.iter().flat_map(PathReport::sentences).collect();
        match sentences.as_slice() {
            [] => Ok(()),
            [only] => Err(Failure::Failed((*only).to_owned())),
            [first, ..] => {
                let damaged: usize = self.paths.iter().map(|path| path.damaged.len()).sum();
                let failed = self.paths.iter().filter(|path| path.error.is_some()).count();
                let unread = match failed {
                    0 => String::new(),
                    some => format!(", and {} could not be read", output::count(some, "path")),
                };
                let are = if damaged == 1 { "is" } else { "are" };
                let damaged = output::count(damaged, "tensor");
                Err(Failure::Failed(format!("{damaged} {are} damaged{unread}; the first: {first}")))
            }
        }
    }
}

impl PathReport {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            outcome: Outcome::NothingToCompare,
            error: None,
            tensors: 0,
            bytes: 0,
            checksums: 0,
            compared: 0,
            compared_bytes: 0,
            damaged: Vec::new(),
        }
    }

    /// Adds what the headers say.
    pub(crate) fn opened(&mut self, model: &SafeTensors) {
        self.tensors = model.tensors().len();
        self.bytes = model.byte_len();
        self.checksums = model.tensors().iter().filter(|info| info.checksum().is_some()).count();
        if self.checksums > 0 {
            self.outcome = Outcome::Intact;
        }
    }

    /// Adds a tensor of `file`.
    pub(crate) fn add(&mut self, tensor: &Verified<'_>, file: &Path) {
        let (Some(expected), Some(found)) = (tensor.info.checksum(), tensor.found) else { return };
        self.compared += 1;
        self.compared_bytes += tensor.info.byte_len();
        if tensor.is_damaged() {
            self.outcome = Outcome::Damaged;
            let (name, path) = (tensor.info.name().to_owned(), file.to_owned());
            self.damaged.push(Damaged {
                name: name.clone(),
                file: path.clone(),
                expected: output::checksum(expected),
                found: output::checksum(found),
                sentence: Error::Mismatch { name, path, expected, found }.to_string(),
            });
        }
    }

    /// Ends it: the path cannot be read, or not any further.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.outcome = Outcome::Failed;
        self.error = Some(error.to_string());
    }

    /// What is wrong.
    fn sentences(&self) -> impl Iterator<Item = &str> {
        self.damaged.iter().map(|damaged| damaged.sentence.as_str()).chain(self.error.as_deref())
    }

    fn outcome(&self) -> String {
        match self.outcome {
            Outcome::Intact => "as it was saved".to_owned(),
            Outcome::NothingToCompare => "nothing to compare".to_owned(),
            Outcome::Damaged => format!("{} damaged", self.damaged.len()),
            Outcome::Failed => "cannot be read".to_owned(),
            Outcome::Interrupted => "interrupted".to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.partial {
            writeln!(f, "{}", output::sentence(output::PARTIAL))?;
        }
        let row = |path: &PathReport| {
            [
                shown(&path.path).to_string(),
                path.tensors.to_string(),
                path.compared.to_string(),
                size::show(path.compared_bytes),
                path.outcome(),
            ]
        };
        let header = ["path", "tensors", "compared", "size", "outcome"];
        let mut table = output::figures(header, self.paths.iter().map(row));
        if let Some(outcomes) = table.column_mut(header.len() - 1) {
            outcomes.set_cell_alignment(CellAlignment::Left);
        }
        write!(f, "{table}")?;
        for sentence in self.paths.iter().flat_map(PathReport::sentences) {
            write!(f, "\n{}", output::sentence(sentence))?;
        }
        Ok(())
    }
}
