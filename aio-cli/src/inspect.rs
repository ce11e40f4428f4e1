//! What is in safetensors files, as their headers say.

mod report;

use aio::Backend;
use aio::tensor::SafeTensors;

use crate::cli::InspectArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::output;
use report::{PathReport, Report};

/// Reads the headers, prints what they say, and fails if a path cannot be read.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    // Headers are small: no backend is faster.
    let engine = aio::builder().backend(Backend::Pthread).build()?;
    let mut paths = Vec::new();
    for path in &args.paths {
        interrupt::check()?;
        paths.push(match SafeTensors::open(&engine, path) {
            Ok(model) => PathReport::of(path, &model),
            Err(error) => PathReport::failed(path, error.to_string()),
        });
    }
    let report = Report::new(paths);
    if args.json || report.has_tables() {
        output::result(&report, args.json)?;
    }
    report.verdict()
}
