//! Whether tensors in safetensors files are those that were saved.

mod progress;
mod report;

use std::path::Path;

use aio::AioHandle;
use aio::tensor::SafeTensors;

use crate::cli::VerifyArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::output;
use progress::Progress;
use report::{Outcome, PathReport, Report};

/// Checks all paths, prints the result, and fails unless all is as it was saved.
///
/// When a signal ends it early, it prints what it found until then, marked as partial.
pub(crate) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let engine = aio::builder().build()?;
    let progress = Progress::new(args.paths.len());
    let mut report = Report::new();
    for (path, number) in args.paths.iter().zip(1..) {
        let begin = |bytes| progress.path(number, path, bytes);
        report.add(verify_path(&engine, path, begin, |bytes| progress.compared(bytes)));
        if interrupt::check().is_err() {
            report.interrupted();
            break;
        }
    }
    drop(progress);
    let printed = output::result(&report, args.json);
    // After SIGHUP the terminal takes no report; the signal is still the reason for the end.
    interrupt::check()?;
    printed?;
    report.verdict()
}

/// Checks one path. `begin` gets the bytes that are to be compared, and `compared` those of each tensor.
fn verify_path(engine: &AioHandle, path: &Path, begin: impl FnOnce(u64), compared: impl Fn(u64)) -> PathReport {
    let mut row = PathReport::new(path);
    let model = match SafeTensors::open(engine, path) {
        Ok(model) => model,
        Err(error) => {
            row.failed(&error);
            return row;
        }
    };
    row.opened(&model);
    let files: Vec<_> = model.files().collect();
    begin(model.tensors().iter().filter(|info| info.checksum().is_some()).map(|info| info.byte_len()).sum());
    for verified in model.verify() {
        if interrupt::check().is_err() {
            row.outcome = Outcome::Interrupted;
            break;
        }
        match verified {
            Ok(tensor) => {
                row.add(&tensor, files[tensor.info.file()]);
                compared(tensor.found.map_or(0, |_| tensor.info.byte_len()));
            }
            Err(error) => row.failed(&error),
        }
    }
    row
}
