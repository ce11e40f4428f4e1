//! `tensor-aio verify`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Read the tensors of safetensors files, and compare them with the checksums that were saved with them.
///
/// A PATH is a safetensors file, an index (NAME.safetensors.index.json), or a folder: the files of its index, or
/// without one all its files NAME.safetensors. Of each, the headers are checked, and that the files fit together; then
/// every tensor with a checksum (XXH3-64, in the metadata) is read and compared.
///
/// A file without checksums has nothing to compare, which is no failure: most programs save none. A path that cannot be
/// used or is damaged does not keep the others from being checked.
#[derive(Debug, Args)]
#[command(after_long_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Safetensors files, folders of them, or indices.
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

const VERIFY_EXAMPLES: &str = "\
Exit codes: 0 no tensor is damaged and every PATH could be read; 1 one is, or could not; 2 the command
line is wrong; 129, 130 or 143 interrupted, after a report of what was compared until then.

Examples:
  tensor-aio verify model.safetensors
  tensor-aio verify checkpoint-*/
  tensor-aio verify checkpoint/ --json | jq '.paths[].damaged[].name'";
