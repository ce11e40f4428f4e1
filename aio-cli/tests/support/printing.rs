//! Tests of stdout and stderr for the command of the crate, with the crate's lines in `crate::PRINTING` and
//! `crate::NAMING`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::bench::Bench;

/// Not UTF-8, and with control characters.
const ODD: &[u8] = b"odd\xff\x1b[31m\n\x07";

fn run(folder: &Path, words: impl IntoIterator<Item = OsString>) -> Output {
    Command::new(crate::PROGRAM).current_dir(folder).args(words).env_remove("RUST_LOG").output().unwrap()
}

/// Checks for control characters and panics; returns the text.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let obeyed = text.chars().find(|letter| letter.is_control() && !"\n\t".contains(*letter));
    assert!(obeyed.is_none() && !text.contains("panicked"), "{text:?}");
    text
}

/// Runs a line with stdout redirected by a shell.
fn redirected(bench: &Bench, line: &str, to: &str) -> (Option<i32>, String) {
    let script = format!("\"$0\" {line} {to}");
    let output = Command::new("sh").args(["-c", &script, crate::PROGRAM]).current_dir(bench.path()).output().unwrap();
    (output.status.code(), printable(&output.stderr))
}

#[test]
fn a_stdout_that_takes_nothing_is_an_error() {
    let bench = Bench::new();
    for line in ["--help", "--version", "completions --help", "completions bash"].iter().chain(crate::PRINTING) {
        for (to, reason) in [(">/dev/full", "No space left on device"), (">&-", "it is closed")] {
            let (code, stderr) = redirected(&bench, line, to);
            let sentence = format!("error: cannot write the result to stdout: {reason}");
            assert!(code == Some(1) && stderr.starts_with(&sentence), "{line} {to}: {code:?} {stderr}");
        }
        assert_eq!(redirected(&bench, line, ">/dev/null"), (Some(0), String::new()), "{line}");
    }
    assert_eq!(bench.names(), Vec::<String>::new());
}

/// Only the exit code can tell the failure then.
#[test]
fn a_stderr_that_takes_nothing_is_no_panic() {
    for file in ["/dev/full", "/dev/null"] {
        for line in ["erase", "completions tcsh"].iter().chain(&[crate::FAILING]) {
            let stderr = File::options().write(true).open(file).unwrap();
            let mut command = Command::new(crate::PROGRAM);
            let code = command.args(line.split(' ')).stdout(Stdio::null()).stderr(stderr).status().unwrap().code();
            assert_eq!(code, Some(if *line == crate::FAILING { 1 } else { 2 }), "{line} 2>{file}");
        }
    }
}

#[test]
fn names_of_any_bytes_are_escaped_and_lose_no_result() {
    let bench = Bench::new();
    let odd = bench.path().join(OsStr::from_bytes(ODD));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("file"), [0; 8192]).unwrap();
    for line in crate::NAMING {
        for json in [false, true] {
            let words = line.split(' ').map(|word| match word.strip_prefix("DIR") {
                Some(rest) => [odd.as_os_str(), rest.as_ref()].into_iter().collect(),
                None => OsString::from(word),
            });
            let output = run(bench.path(), words.chain(json.then(|| "--json".into())));
            let (stdout, stderr) = (printable(&output.stdout), printable(&output.stderr));
            assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{line}");
            let is_object = serde_json::from_str::<serde_json::Value>(&stdout).is_ok_and(|json| json.is_object());
            assert_eq!(is_object, json, "{line}\n{stdout}");
        }
    }
    fs::remove_dir_all(&odd).unwrap();
    // Each word in turn is such a name; clap or the command reports those that are not valid.
    for line in crate::NAMING.iter().chain(&["completions bash", "erase", "--erase"]) {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        for index in 0..words.len() {
            for bytes in [&ODD[..3], ODD, &ODD[4..], &[b"--", &ODD[4..]].concat(), b"-\x1b"] {
                let mut words = words.clone();
                words[index] = OsStr::from_bytes(bytes).to_owned();
                let output = run(bench.path(), words.clone());
                printable(&output.stdout);
                let stderr = printable(&output.stderr);
                assert!(
                    matches!(output.status.code(), Some(1 | 2)) && stderr.starts_with("error: "),
                    "{words:?} {stderr}"
                );
            }
        }
    }
}
