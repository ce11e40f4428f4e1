//! `aio-bench plot`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Draw saved results of `run`: throughput and latency against queue depth or block size, a line per backend.
///
/// FILE holds what `aio-bench run --json` printed: one object, an array of them, or one after the other, as
/// `run --json >> FILE` writes them. Results that differ in anything but the axis become separate lines, named after what differs.
/// Repetitions of one point become their median, with a whisker from the lowest to the highest. If neither the queue
/// depth nor the block size varies, the results are drawn as bars.
///
/// Results that were interrupted (`"partial": true`) or have an error are left out, and named on stderr.
///
/// The picture has a transparent background and is readable on light and dark pages. It replaces --out only once it is
/// complete.
#[derive(Debug, Args)]
#[command(after_long_help = PLOT_EXAMPLES)]
pub(crate) struct PlotArgs {
    /// Files or pipes with results, at most 16 MiB each; - is stdin.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// The picture, an SVG, whose name ends in .svg.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) out: PathBuf,

    /// The horizontal axis [default: whichever of the two varies]
    #[arg(long, value_enum)]
    pub(crate) x: Option<Over>,

    /// Print one JSON object with what was drawn instead of a line of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    /// Blocks in flight per thread.
    QueueDepth,
    /// Bytes of a block.
    BlockSize,
}

const PLOT_EXAMPLES: &str = "\
Examples:
  for backend in uring libaio pthread; do
    for depth in 1 2 4 8 16 32 64; do
      aio-bench run --op read --file big --json --backend $backend \\
        --queue-depth $depth >> depths.json
    done
  done
  aio-bench plot depths.json --out depths.svg
  aio-bench plot a.json b.json --x block-size --out sizes.svg
  aio-bench run --op read --file big --json | aio-bench plot - --out now.svg";
