//! Tests that need a process of their own: for what belongs to the whole process (limits, signals, forks, death), or to
//! look at what a process holds while no other test runs in it.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

const VARIABLE: &str = "AIO_TEST_CHILD";

/// Whether this process is one that [`again`] made for this test.
pub fn is_child(test: &str) -> bool {
    std::env::var_os(VARIABLE).is_some_and(|name| name == test)
}

/// Runs the named test of this binary again, in a process of its own, where [`is_child`] is true.
pub fn again(test: &str) -> Command {
    again_under(&[], test)
}

/// A child started by another program that sets something up, such as `prlimit --nofile=50`.
pub fn again_under(wrapper: &[&str], test: &str) -> Command {
    let executable = std::env::current_exe().expect("this test's own path");
    let mut command = match wrapper {
        [] => Command::new(executable),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(executable);
            command
        }
    };
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(VARIABLE, test);
    // Without it, the first allocation of any thread may open a file for a moment: glibc counts the CPUs.
    command.env("MALLOC_ARENA_MAX", "1");
    command
}

/// Runs a command of [`again`] to its end, and fails unless its test ran and passed. Its output goes through a pipe: to
/// a file, it would be under a limit of file sizes as well.
pub fn assert_passes(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for skipped in text.lines().filter(|line| line.contains("SKIPPED")) {
        eprintln!("{skipped}");
    }
    assert!(output.status.success() && text.contains("1 passed"), "{command:?}: {}\n{text}", output.status);
}

/// Runs a test in a process of its own, where no other test opens files or starts threads.
pub fn alone(name: &str, test: impl FnOnce()) {
    if is_child(name) {
        return test();
    }
    assert_passes(&mut again(name));
}

/// Runs `child` in a forked child, which must not print, panic or touch locks of others; it returns what it found
/// wrong, and is ended if it hangs. 0 is well, 99 a panic, and a negative number the signal that ended it.
pub fn forked(child: impl FnOnce() -> Option<i32>) -> i32 {
    // SAFETY: the child does what the tests that call this let it do, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: sets a timer and a limit of this process, and ends it.
        unsafe {
            libc::alarm(30);
            let wrong = catch_unwind(AssertUnwindSafe(child)).unwrap_or(Some(99));
            libc::_exit(wrong.unwrap_or(0));
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above. A signal of the test's own may come in between.
    while unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted, "waitpid");
    }
    let status = std::process::ExitStatus::from_raw(status);
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(1000))
}
