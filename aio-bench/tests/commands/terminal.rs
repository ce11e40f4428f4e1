//! The command on a terminal of so many columns.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use nix::pty::{Winsize, openpty};

use crate::bench::Bench;

/// A new terminal: the side of its screen, and the one that programs write to.
pub(crate) fn terminal(columns: u16) -> (File, OwnedFd) {
    let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    (terminal.master.into(), terminal.slave)
}

/// All that is written to it, until no program has it any more: reading is an error then.
pub(crate) fn seen(mut screen: File) -> String {
    let (mut seen, mut some) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = screen.read(&mut some) {
        seen.extend_from_slice(&some[..len]);
    }
    String::from_utf8(seen).unwrap()
}

/// What a command that succeeds writes to stdout and to stderr, which are terminals.
fn run(bench: &Bench, line: &str, columns: u16) -> (String, String) {
    let (screens, programs): (Vec<_>, Vec<_>) = (0..2).map(|_| terminal(columns)).unzip();
    let [stdout, stderr] = <[OwnedFd; 2]>::try_from(programs).unwrap();
    let mut command = Command::new(cargo_bin!("aio-bench"));
    command.args(line.split(' ')).current_dir(bench.path()).env("TERM", "xterm").env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    // It holds the terminals open, too.
    drop(command);
    let threads: Vec<_> = screens.into_iter().map(|screen| std::thread::spawn(|| seen(screen))).collect();
    let [stdout, stderr] = <[_; 2]>::try_from(threads).unwrap().map(|thread| thread.join().unwrap());
    assert!(child.wait().unwrap().success(), "{line}: {stdout}{stderr}");
    (stdout, stderr)
}

/// The lines of a table, of which none is too long.
fn table(text: &str, columns: usize) -> Vec<&str> {
    let lines: Vec<_> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
    let drawn = |line: &&str| line.starts_with(['┌', '│', '╞', '└']);
    let lines: Vec<_> = lines.into_iter().filter(drawn).collect();
    assert!(lines.len() > 4 && lines.iter().all(|line| line.chars().count() <= columns), "{text}");
    lines
}

/// Cells of all rows and lines.
fn cells<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    lines.iter().flat_map(|line| line.split(['│', '┆'])).map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn tables_fit_in_and_their_words_stay_whole() {
    let bench = Bench::new();
    let (text, _) = run(&bench, "swap --tensors 2 --tensor-size 4K", 60);
    let lines = table(&text, 60);
    for word in ["swap-out", "verified", "2 of 2"] {
        assert!(cells(&lines).contains(&word), "{word}\n{text}");
    }

    let (text, _) = run(&bench, "tune . --size 1M --budget 1", 60);
    let lines = table(&text, 60);
    let cells = cells(&lines);
    // The spread of the ratio of the defaults to themselves, if they came to be measured again or not.
    assert!(cells.contains(&"[1.00..1.00]"), "{text}");
    for cell in cells.iter().filter(|cell| cell.contains("..") || cell.contains(['[', ']'])) {
        assert!(cell.contains('[') && cell.contains("..") && cell.ends_with(']'), "{cell}\n{text}");
    }
}

#[test]
fn where_not_even_words_fit_in_they_are_broken() {
    let bench = Bench::new();
    let (text, _) = run(&bench, "swap --tensors 2 --tensor-size 4K", 40);
    table(&text, 40);
}

#[test]
fn bars_take_one_line() {
    let bench = Bench::new();
    bench.file("f", &[7; 1 << 20]);
    for line in [
        "swap --tensors 64 --tensor-size 64K",
        "tune . --size 1M --budget 1",
        "compare --size 1M --only read --rounds 1",
        "run --op read --file f --block-size 4K --runtime 1.1",
    ] {
        let (_, bar) = run(&bench, line, 60);
        let drawn: Vec<_> = bar.split(['\r', '\n']).map(without_escapes).filter(|line| !line.is_empty()).collect();
        assert!(!drawn.is_empty() && drawn.iter().all(|line| line.chars().count() <= 60), "{line}: {drawn:?}");
    }
}

/// Without control sequences (ESC, [, parameters, a letter).
fn without_escapes(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default());
    }
    plain
}
