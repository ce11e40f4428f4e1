//! Runs the command on a terminal of a given width.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};

use super::bench::Bench;

/// A new terminal: the side of the screen, and the side of the programs.
pub(crate) fn terminal(columns: u16) -> (File, OwnedFd) {
    let size = Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    (terminal.master.into(), terminal.slave)
}

/// All that programs write to it, until the last one closes it: reading then fails.
pub(crate) fn seen(mut screen: File) -> String {
    let (mut seen, mut some) = (Vec::new(), [0; 4096]);
    while let Ok(len @ 1..) = screen.read(&mut some) {
        seen.extend_from_slice(&some[..len]);
    }
    String::from_utf8(seen).unwrap()
}

/// What a command that succeeds writes to stdout and stderr, both terminals.
pub(crate) fn run(bench: &Bench, line: &str, columns: u16) -> (String, String) {
    let (screens, programs): (Vec<_>, Vec<_>) = (0..2).map(|_| terminal(columns)).unzip();
    let [stdout, stderr] = <[OwnedFd; 2]>::try_from(programs).unwrap();
    let mut command = Command::new(crate::PROGRAM);
    command.args(line.split(' ')).current_dir(bench.path()).env("TERM", "xterm").env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    // The command still holds the terminals open.
    drop(command);
    let threads: Vec<_> = screens.into_iter().map(|screen| std::thread::spawn(|| seen(screen))).collect();
    let [stdout, stderr] = <[_; 2]>::try_from(threads).unwrap().map(|thread| thread.join().unwrap());
    assert!(child.wait().unwrap().success(), "{line}: {stdout}{stderr}");
    (stdout, stderr)
}

/// Runs these lines on a narrow terminal, and checks what they draw meanwhile.
pub(crate) fn assert_bars_take_one_line(bench: &Bench, lines: &[&str]) {
    for line in lines {
        let (_, bar) = run(bench, line, 60);
        let drawn: Vec<_> = bar.split(['\r', '\n']).map(without_escapes).filter(|line| !line.is_empty()).collect();
        assert!(!drawn.is_empty() && drawn.iter().all(|line| line.chars().count() <= 60), "{line}: {drawn:?}");
    }
}

/// Runs a line on a narrow terminal, and checks that it breaks its text between words: the terminal would break lines
/// that are too long anywhere.
pub(crate) fn assert_text_fits(bench: &Bench, line: &str) {
    let (text, _) = run(bench, line, 60);
    for written in text.split(['\r', '\n']).map(without_escapes) {
        let one_word = !written.trim().contains(' ');
        assert!(written.chars().count() <= 60 || one_word, "{line}: {written:?} in\n{text}");
    }
}

/// Removes control sequences (ESC, [, parameters, a letter).
fn without_escapes(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default());
    }
    plain
}
