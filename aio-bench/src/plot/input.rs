//! Saved results of `run`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aio_core::Printable;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::input_file;
use aio_cli::failure::{Failure, one_line};
use aio_cli::interrupt;

/// The schema of `run`'s results.
const SCHEMA: &str = "aio-bench/run/1";

/// The results of all files.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(crate) results: Vec<RunResult>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// The part of a result of `run` that is drawn, or that tells results apart.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RunResult {
    pub(crate) backend: String,
    /// Missing, or the whole mix if `ops` has several.
    #[serde(default)]
    pub(crate) op: Option<String>,
    #[serde(default)]
    pub(crate) ops: Vec<OpShare>,
    pub(crate) block_size: u64,
    pub(crate) queue_depth: u64,
    pub(crate) threads: u64,
    pub(crate) direct: bool,
    #[serde(default)]
    pub(crate) extents: Option<u64>,
    #[serde(default)]
    pub(crate) memory_offset: u64,
    pub(crate) gb_per_s: f64,
    pub(crate) latency_us: Latency,
    #[serde(default)]
    errors: u64,
    #[serde(default)]
    partial: bool,
}

/// One of several ops of a job, and its share.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OpShare {
    pub(crate) op: String,
    #[serde(default)]
    pub(crate) weight: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// A result that is not drawn.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LeftOut {
    file: String,
    /// Its number in the file, from 1.
    result: usize,
    reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "result {} of {} is left out: {}", self.result, self.file, self.reason)
    }
}

impl Input {
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self, Failure> {
        let mut input = Self::default();
        for file in files {
            let text = contents(file)?;
            input.parse(file, &text)?;
        }
        match (input.results.is_empty(), input.left_out.len()) {
            (false, _) => Ok(input),
            (true, 1) => Err(Failure::Failed(format!("nothing is left to draw: {}", input.left_out[0]))),
            (true, count) => {
                let reasons: Vec<_> = input.left_out.iter().map(ToString::to_string).collect();
                Err(Failure::Failed(format!("nothing is left of {count} results: {}", reasons.join("; "))))
            }
        }
    }

    /// Adds the results in `text`, the content of `file`.
    fn parse(&mut self, file: &Path, text: &[u8]) -> Result<(), Failure> {
        let failed = |what: String| {
            Failure::Failed(format!(
                "{} {what}; expected what `aio-bench run --json` prints (\"schema\": \"{SCHEMA}\")",
                name(file)
            ))
        };
        let mut number = 0;
        for value in serde_json::Deserializer::from_slice(text).into_iter::<Value>() {
            let values = match value.map_err(|error| failed(format!("is not JSON: {error}")))? {
                Value::Array(values) => values,
                value => vec![value],
            };
            for value in values {
                number += 1;
                let result = RunResult::from(value)
                    .map_err(|what| failed(format!("has a result (number {number}) {}", one_line(&what))))?;
                match result.why_not() {
                    None => self.results.push(result),
                    Some(reason) => self.left_out.push(LeftOut { file: name(file), result: number, reason }),
                }
            }
        }
        if number == 0 {
            return Err(failed("holds no result".to_owned()));
        }
        Ok(())
    }
}

impl RunResult {
    /// Parses a result; the error continues the words "a result".
    fn from(value: Value) -> Result<Self, String> {
        match &value["schema"] {
            Value::String(schema) if schema == SCHEMA => {}
            Value::Null => return Err("without a schema".to_owned()),
            other => return Err(format!("of the schema {other}")),
        }
        let result: Self = serde_json::from_value(value).map_err(|error| format!("that is not whole: {error}"))?;
        let rates = [result.gb_per_s, result.latency_us.p50, result.latency_us.p99];
        if rates.iter().any(|rate| !(0.0..=1e12).contains(rate)) {
            return Err("with a rate or a latency that is not from 0 to 1e12".to_owned());
        }
        for (key, value) in [("queue_depth", result.queue_depth), ("block_size", result.block_size)] {
            if value == 0 {
                return Err(format!("with {key} 0"));
            }
        }
        if result.op.is_none() && result.ops.is_empty() {
            return Err("that is not whole: missing field `op`".to_owned());
        }
        Ok(result)
    }

    /// Why it is left out.
    fn why_not(&self) -> Option<String> {
        match (self.partial, self.errors) {
            (true, _) => Some("it is partial, of a run that was interrupted".to_owned()),
            (false, 0) => None,
            (false, 1) => Some("one of its ops failed".to_owned()),
            (false, errors) => Some(format!("{errors} of its ops failed")),
        }
    }
}

fn contents(file: &Path) -> Result<Vec<u8>, Failure> {
    /// In bytes: about ten thousand results.
    const MOST: u64 = 16 << 20;
    let opened = match is_stdin(file) {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => input_file::open(file),
    };
    opened.and_then(|opened| input_file::read(opened, MOST)).map_err(|error| {
        let failed = Failure::Failed(format!("cannot read {}: {error}", name(file)));
        interrupt::check().err().unwrap_or(failed)
    })
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// The name of a file in sentences.
fn name(file: &Path) -> String {
    if is_stdin(file) { "stdin".to_owned() } else { Printable(file.display()).to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A result as `run` prints it, with the keys that matter here.
    pub(crate) fn result(backend: &str, queue_depth: u64, gb_per_s: f64) -> Value {
        json!({
            "schema": SCHEMA, "backend": backend, "op": "read", "block_size": 1 << 20, "queue_depth": queue_depth,
            "threads": 1, "direct": true, "memory_offset": 0, "gb_per_s": gb_per_s, "iops": 1.0, "errors": 0,
            "latency_us": { "p50": 100.0 * queue_depth as f64, "p99": 300.0, "p999": 400.0, "max": 500.0 }
        })
    }

    fn parse(text: &str) -> Result<Input, String> {
        let mut input = Input::default();
        input.parse(Path::new("all.json"), text.as_bytes()).map(|()| input).map_err(|failure| failure.to_string())
    }

    #[test]
    fn one_several_and_arrays_are_read() {
        let (a, b) = (result("uring", 1, 1.0), result("libaio", 2, 2.0));
        for (text, backends) in [
            (a.to_string(), vec!["uring"]),
            (format!("{a}{b}"), vec!["uring", "libaio"]),
            (format!("{a:#}\n{b:#}\n"), vec!["uring", "libaio"]),
            (format!("[{a},{b}]"), vec!["uring", "libaio"]),
            (format!("[{a}]\n{b}"), vec!["uring", "libaio"]),
        ] {
            let input = parse(&text).unwrap();
            let read: Vec<_> = input.results.iter().map(|result| result.backend.as_str()).collect();
            assert_eq!((read, input.left_out.len()), (backends, 0), "{text}");
        }
    }

    fn with(key: &str, value: Value) -> Value {
        let mut result = result("uring", 1, 1.0);
        result[key] = value;
        result
    }

    fn without(key: &str) -> Value {
        let mut result = result("uring", 1, 1.0);
        result.as_object_mut().unwrap().remove(key);
        result
    }

    #[test]
    fn what_is_not_a_result_is_named() {
        let good = result("uring", 1, 1.0);
        for (text, what) in [
            (String::new(), "holds no result"),
            ("[]".to_owned(), "holds no result"),
            ("rates".to_owned(), "is not JSON: expected value at line 1 column 1"),
            (good.to_string()[..50].to_owned(), "is not JSON: EOF"),
            ("3".to_owned(), "a result (number 1) without a schema"),
            (without("schema").to_string(), "a result (number 1) without a schema"),
            (
                format!("{good} {}", with("schema", json!("aio-bench/swap/1"))),
                "a result (number 2) of the schema \"aio-bench/swap/1\"",
            ),
            (without("gb_per_s").to_string(), "not whole: missing field `gb_per_s`"),
            (with("gb_per_s", json!(null)).to_string(), "not whole"),
            (without("op").to_string(), "missing field `op`"),
            (with("queue_depth", json!(0)).to_string(), "with queue_depth 0"),
            (with("gb_per_s", json!(-1.0)).to_string(), "not from 0 to 1e12"),
        ] {
            let sentence = parse(&text).expect_err(&text);
            assert!(sentence.contains(what) && sentence.starts_with("all.json "), "{text}: {sentence}");
            assert!(sentence.contains("aio-bench/run/1"), "{sentence}");
        }
    }

    #[test]
    fn partial_results_and_those_with_errors_are_left_out() {
        let text =
            [with("partial", json!(true)), result("uring", 1, 1.0), with("errors", json!(2))].map(|r| r.to_string());
        let input = parse(&text.join("\n")).unwrap();
        assert_eq!(input.results.len(), 1);
        let notes: Vec<_> = input.left_out.iter().map(ToString::to_string).collect();
        assert!(notes[0].starts_with("result 1 of all.json is left out: it is partial"), "{notes:?}");
        assert_eq!(notes[1], "result 3 of all.json is left out: 2 of its ops failed");
    }
}
