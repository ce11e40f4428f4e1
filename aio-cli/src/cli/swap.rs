//! `tensor-aio swap`.

use std::path::PathBuf;

use aio::{Backend, DirectMode};
use clap::{Args, ValueEnum, ValueHint};

use super::EngineArgs;
use crate::size;
use crate::swap::tensors;

/// Write tensors to files and read them back, on every backend, and compare every byte.
///
/// The backends alternate over several passes. In each pass a backend fills memory with the tensors and hashes them
/// (XXH3), writes them to new files (swap-out, timed), overwrites the memory, and reads the files back (swap-in, timed)
/// and hashes them again. Starting the engine and preparing memory are not timed; making files, allocating their disk
/// space, opening and closing them are. The disk holds one copy of the tensors at a time; a set that is larger than
/// memory is moved in groups.
///
/// It makes its files in a new folder inside --dir, and removes that at the end, also after a failure or Ctrl-C.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of swap", after_long_help = SWAP_EXAMPLES)]
pub(crate) struct SwapArgs {
    /// Take the tensors of these safetensors files, folders of such files or indices (NAME.safetensors.index.json),
    /// instead of GPT-2's shapes.
    #[arg(long, value_name = "PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    #[arg(conflicts_with_all = ["tensors", "tensor_size"])]
    pub(crate) from: Vec<PathBuf>,

    /// Make a uniform set of this many tensors, each of --tensor-size.
    #[arg(long, value_name = "N", requires = "tensor_size", value_parser = clap::value_parser!(u64).range(1..=tensors::MOST))]
    pub(crate) tensors: Option<u64>,

    /// Size of each tensor of a uniform set.
    #[arg(long, value_name = "SIZE", requires = "tensors", value_parser = size::parse_positive)]
    pub(crate) tensor_size: Option<u64>,

    /// Folder on the device to use; it must exist.
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    /// How tensors lie in files.
    #[arg(long, value_enum, default_value_t = Layout::Files)]
    pub(crate) layout: Layout,

    /// Direct I/O, past the page cache: auto (where the file system has it), on (or fail), off.
    #[arg(long, value_name = "MODE", default_value_t = DirectMode::Auto)]
    pub(crate) direct: DirectMode,

    /// Use this backend only, and fail if it is not available: uring, libaio, pthread, or auto for the best one (or
    /// the one that AIO_BACKEND names).
    ///
    /// [default: every backend that is available]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) backend: Option<Backend>,

    /// How often each backend writes and reads everything. Each pass starts with a different backend.
    ///
    /// [default: 3, or as many as fit in a minute, judged by the first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) passes: Option<u32>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

const SWAP_EXAMPLES: &str = "\
Examples:
  tensor-aio swap --dir /mnt/nvme
  tensor-aio swap --tensors 256 --tensor-size 1M --backend uring --queue-depth 64
  tensor-aio swap --layout extents --dir /mnt/nvme --passes 5
  tensor-aio swap --from model-00001.safetensors model-00002.safetensors --json";

/// How the tensors of a set lie in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// A file per tensor, and an op for each.
    Files,
    /// One file for all tensors that are in memory together, and one vectored op for all of them; each tensor begins
    /// at a multiple of the page size.
    Extents,
}

impl Layout {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Extents => "extents",
        }
    }
}
