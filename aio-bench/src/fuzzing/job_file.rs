//! Job files: TOML whose keys are options of `run`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser;
use toml::{Table, Value};

use crate::cli::{Cli, Command, RunArgs, job_arguments};
use aio_cli::fuzzing::assert_readable;

/// Checks that an accepted file gives arguments that `run` takes, with values in the documented ranges; that these,
/// written as a file again, are the same, and, given on the command line, override all of the file; and that a refused
/// file gets an error.
pub fn job_file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match job_arguments(text, &[]) {
        Ok(arguments) => {
            assert_in_range(&parsed(&arguments));
            assert_eq!(job_arguments(&written(&arguments), &[]).as_ref(), Ok(&arguments));
            assert_eq!(job_arguments(text, &arguments), Ok(vec![]), "what is given wins");
        }
        Err(reason) => assert_readable(&reason),
    }
}

/// Parses these arguments as a run, with those that are required.
fn parsed(arguments: &[String]) -> RunArgs {
    let has = |option: &str| arguments.iter().any(|word| word.starts_with(option));
    let required = [("--file=", "--file=f"), ("--op=", "--op=read")];
    let required = required.into_iter().filter(|(option, _)| !has(option)).map(|(_, word)| word);
    let line = ["aio-bench", "run"].into_iter().chain(required).chain(arguments.iter().map(String::as_str));
    match Cli::try_parse_from(line) {
        Ok(Cli { command: Command::Run(args) }) => args,
        other => panic!("{arguments:?} is no run: {other:?}"),
    }
}

/// The ranges that the options' help states.
fn assert_in_range(args: &RunArgs) {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let sizes = [args.size, args.bytes, Some(args.block_size as u64)];
    assert!(sizes.iter().flatten().all(|size| (1..=i64::MAX as u64).contains(size)), "{args:?}");
    assert!([args.runtime, args.ramp].iter().flatten().all(|time| !time.is_zero() && *time <= WEEK), "{args:?}");
    assert!(!args.ops.is_empty() && args.ops.iter().all(|op| (1..=1_000_000).contains(&op.weight)), "{args:?}");
    assert!((1..=65536).contains(&args.extents) && args.memory_offset < 4096, "{args:?}");
    assert!(args.runtime.is_none() || args.bytes.is_none(), "one of them ends the run: {args:?}");
    assert!(args.job.is_none(), "a job file names no other: {args:?}");
}

/// A file with these arguments.
fn written(arguments: &[String]) -> String {
    let mut values = BTreeMap::<&str, Vec<&str>>::new();
    let mut table = Table::new();
    for word in arguments {
        let option = word.strip_prefix("--").unwrap_or_else(|| panic!("{word:?} is no option"));
        match option.split_once('=') {
            Some((key, value)) => values.entry(key).or_default().push(value),
            None => drop(table.insert(option.to_owned(), Value::Boolean(true))),
        }
    }
    for (key, values) in values {
        let value = match values.as_slice() {
            [only] => Value::from(*only),
            several => Value::from(several.to_vec()),
        };
        table.insert(key.to_owned(), value);
    }
    table.to_string()
}
