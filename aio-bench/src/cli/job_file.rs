//! `run --job FILE.toml`: a file whose keys are the long options.
//!
//! The file becomes arguments before those of the command line, and clap parses them all, so names, ranges and
//! conflicts are defined once. Options that the command line gives, or that conflict with it, are dropped from the
//! file's.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use aio_core::shown;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser};
use toml::{Table, Value};

use super::{Cli, NAME};
use crate::input_file;
use aio_cli::command_line::exit;
use aio_cli::failure::{Failure, one_line};

const RUN: &str = "run";
const JOB: &str = "job";

/// Parses the command line, with the job file that it may name. Exits, as clap does, if the line itself is wrong.
pub fn parse() -> Result<Cli, Failure> {
    let mut line: Vec<OsString> = std::env::args_os().collect();
    // The command comes first: options of the default command cannot precede one.
    if line.get(1).is_some_and(|word| word == RUN) {
        let given = nothing_required().try_get_matches_from(&line).unwrap_or_else(|error| exit::<Cli>(error));
        let given = given.subcommand_matches(RUN);
        if let Some((given, path)) = given.and_then(|given| Some((given, given.get_one::<PathBuf>(JOB)?))) {
            let added = arguments(path, given)?;
            line.splice(2..2, added.into_iter().map(OsString::from));
        }
    }
    Ok(Cli::try_parse_from(line).unwrap_or_else(|error| exit::<Cli>(error)))
}

/// The arguments of the file at `path`, beside those `given`.
fn arguments(path: &Path, given: &ArgMatches) -> Result<Vec<String>, Failure> {
    let text =
        read(path).map_err(|error| Failure::Failed(format!("cannot read the job file {}: {error}", shown(path))))?;
    from_table(&text, given).map_err(|reason| Failure::Usage(format!("job file {}: {reason}", shown(path))))
}

/// Reads a file or a pipe.
fn read(path: &Path) -> io::Result<String> {
    /// In bytes: far more than all options need.
    const MOST: u64 = 1 << 20;
    String::from_utf8(input_file::read(input_file::open(path)?, MOST)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// The arguments of a job file with this text, on a command line with the arguments `given`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn job_arguments(text: &str, given: &[String]) -> Result<Vec<String>, String> {
    let line = [NAME, RUN].into_iter().chain(given.iter().map(String::as_str));
    let matches = nothing_required().try_get_matches_from(line).map_err(|error| error.to_string())?;
    from_table(text, matches.subcommand_matches(RUN).ok_or("there is no command to run")?)
}

fn from_table(text: &str, given: &ArgMatches) -> Result<Vec<String>, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The error quotes some lines around the wrong one.
        error.to_string().trim_end().lines().map(one_line).collect::<Vec<_>>().join("\n")
    })?;
    let command = nothing_required();
    let run = command.find_subcommand(RUN).ok_or("there is no command to run")?;
    let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let arg = option(run, key)?;
        let words = words(arg, key, value)?;
        accept(key, value, &words)?;
        // clap declares a conflict on one of its two sides.
        let conflicts = |other: &&Arg| {
            run.get_arg_conflicts_with(other).iter().any(|with| with.get_id() == arg.get_id())
                || run.get_arg_conflicts_with(arg).iter().any(|with| with.get_id() == other.get_id())
        };
        if !is_given(arg) && !run.get_arguments().filter(|other| is_given(other)).any(|other| conflicts(&other)) {
            arguments.extend(words);
        }
    }
    match refused(&arguments) {
        Some(reason) => Err(reason),
        None => Ok(arguments),
    }
}

/// The option of this name.
fn option<'a>(run: &'a Command, key: &str) -> Result<&'a Arg, String> {
    let keys = || run.get_arguments().filter(|arg| is_key(arg));
    keys().find(|arg| arg.get_long() == Some(key)).ok_or_else(|| {
        let names = keys().filter_map(Arg::get_long).collect::<Vec<_>>().join(", ");
        let meant = similar(key).filter(|meant| keys().any(|arg| arg.get_long() == Some(meant)));
        let meant = meant.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        format!("there is no key {}{meant}; the keys are {names}", one_line(&format!("{key:?}")))
    })
}

/// Whether a job file may have this key: it can neither name another job file nor ask for help.
fn is_key(arg: &Arg) -> bool {
    let asks = matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong);
    arg.get_id() != JOB && !asks && !matches!(arg.get_action(), ArgAction::Version)
}

/// The name that clap would suggest.
fn similar(key: &str) -> Option<String> {
    let error = nothing_required().try_get_matches_from([NAME, RUN, &format!("--{key}")]).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(name) => Some(name.trim_start_matches('-').to_owned()),
        _ => None,
    }
}

/// The same option as words of a command line.
fn words(arg: &Arg, key: &str, value: &Value) -> Result<Vec<String>, String> {
    let with = |text: String| format!("--{key}={text}");
    let shown = |value: &Value| one_line(&value.to_string());
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Boolean(on) if is_switch => Ok(on.then(|| format!("--{key}")).into_iter().collect()),
        _ if is_switch => Err(format!("{key} = {} is not valid: it is true or false", shown(value))),
        Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => values
            .iter()
            .map(|value| scalar(value).map(with).ok_or_else(|| format!("{key}: {} is not a string", shown(value))))
            .collect(),
        _ => match scalar(value) {
            Some(text) => Ok(vec![with(text)]),
            None => Err(format!("{key} = {} is not valid: it is one string or number", shown(value))),
        },
    }
}

/// Fails if clap refuses these words for the option.
fn accept(key: &str, value: &Value, words: &[String]) -> Result<(), String> {
    refused(words)
        .map_or(Ok(()), |reason| Err(format!("{key} = {} is not valid: {reason}", one_line(&value.to_string()))))
}

/// clap's error for these words, if it refuses them.
fn refused(words: &[String]) -> Option<String> {
    let line = [NAME, RUN].into_iter().chain(words.iter().map(String::as_str));
    let text = nothing_required().try_get_matches_from(line).err()?.to_string();
    text.trim_start_matches("error: ").split("\n\n").next().map(one_line)
}

/// The command line without required options, which the job file may have.
fn nothing_required() -> Command {
    let mut command = Cli::command().mut_subcommand(RUN, |run| run.mut_args(|arg| arg.required(false)));
    command.build();
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments of a file that `line` names.
    fn read(text: &str, line: &str) -> Result<Vec<String>, String> {
        job_arguments(text, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn keys_are_the_long_options() {
        let text =
            "file = 'a b'\nop = ['read:70', 'write:30']\nqueue-depth = 8\nruntime = 0.5\nverify = true\nbare = false";
        let mut words = read(text, "").unwrap();
        words.sort();
        assert_eq!(
            words,
            ["--file=a b", "--op=read:70", "--op=write:30", "--queue-depth=8", "--runtime=0.5", "--verify"]
        );
    }

    #[test]
    fn what_is_given_wins() {
        assert_eq!(read("op = ['read', 'write']\nthreads = 2", "--op randread").unwrap(), ["--threads=2"]);
        for (text, line) in
            [("bytes = '1M'", "--runtime 1"), ("runtime = 1", "--bytes 1M"), ("verify = true", "--verify")]
        {
            assert_eq!(read(text, line).unwrap(), [""; 0], "{text} {line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("queue-dept = 8", vec!["\"queue-dept\"", "did you mean queue-depth?", "block-size"]),
            ("job = 'other.toml'", vec!["no key \"job\""]),
            ("help = true", vec!["no key \"help\""]),
            ("op = 'erase'", vec!["op = \"erase\"", "randwrite"]),
            ("op = ['read', 'erase']", vec!["erase", "randwrite"]),
            ("op = [1, true]", vec!["op: true is not a string"]),
            ("file = ['a', 'b']", vec!["file = ", "one string"]),
            ("direct = 'maybe'", vec!["direct = \"maybe\"", "auto"]),
            ("verify = 1", vec!["verify = 1", "true or false"]),
            ("block-size = 0", vec!["block-size = 0", "at least 1 byte"]),
            ("extents = 0", vec!["extents = 0", "1..=65536"]),
            ("cpu = true", vec!["cpu = true", "one string or number"]),
            ("[file]\nname = 'a'", vec!["file = "]),
            ("bytes = '1M'\nruntime = 1", vec!["--bytes", "cannot be used with", "--runtime"]),
            ("file = ", vec!["TOML parse error at line 1"]),
        ] {
            let error = read(text, "").unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text}: lacks {word:?}: {error}");
            }
        }
    }
}
