//! `tensor-aio inspect`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// List the tensors of safetensors files, and what else their headers say.
///
/// It reads headers only, never a tensor. A PATH is a safetensors file, an index (NAME.safetensors.index.json), or a
/// folder: the files of its index, or without one all its files NAME.safetensors. Files that do not fit together are
/// refused, such as an index and files that lack one of its tensors.
///
/// A tensor has a checksum if the program that saved it left one, as this project's does; `tensor-aio verify` compares.
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Safetensors files, folders of them, or indices.
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

const INSPECT_EXAMPLES: &str = "\
Exit codes: 0 every PATH was read; 1 one was not, the others are shown; 2 the command line is wrong.

Examples:
  tensor-aio inspect model.safetensors
  tensor-aio inspect checkpoint/ model.safetensors.index.json
  tensor-aio inspect checkpoint/ --json | jq '.paths[].tensors[].name'";
