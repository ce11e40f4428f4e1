//! A command that runs beside the test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::bench::Bench;

pub(crate) fn start(bench: &Bench, line: &str) -> Child {
    Command::new(crate::PROGRAM)
        .args(line.split(' '))
        .current_dir(bench.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Polls until `reached`; fails if the child ends first.
pub(crate) fn wait_until(child: &mut Child, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
        assert!(Instant::now() < deadline, "it did not get there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// The exit code, stdout and stderr.
pub(crate) fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
