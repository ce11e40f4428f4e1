//! `tensor-aio probe`.

use std::fs::File;
use std::process::{Command, Stdio};

use aio_testkit::conformance::refusing;
use serde_json::Value;

use crate::support::bench::{Bench, backends};
use crate::support::schema;

/// Probes, checks the result against its schema, and returns it.
fn probe(command: &mut assert_cmd::Command) -> Value {
    let output = command.args(["--json", "--fail-on", "never"]).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("{\n  \"schema\": \"tensor-aio/probe/1\","), "{text}");
    let probed = serde_json::from_str(&text).unwrap();
    schema::assert_valid("probe", &probed);
    probed
}

/// Probes in a shell that sets limits.
fn probe_under(limits: &str) -> Value {
    let bench = Bench::new();
    let mut command = assert_cmd::Command::new("sh");
    command.current_dir(bench.path()).env_remove("AIO_BACKEND");
    command.args(["-c", &format!("{limits} && exec \"$0\" probe \"$@\""), crate::PROGRAM]);
    probe(&mut command)
}

/// The finding with this id.
fn finding<'a>(probed: &'a Value, id: &str) -> Option<&'a Value> {
    probed["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id)
}

#[test]
fn json_has_all_that_was_looked_at() {
    let bench = Bench::new();
    let probed = probe(&mut bench.command("probe ."));
    let names: Vec<_> = probed["backends"].as_array().unwrap().iter().map(|backend| &backend["backend"]).collect();
    assert_eq!(names, ["uring", "libaio", "pthread"]);
    assert_eq!(probed["auto"], backends()[0]);
    assert_eq!((&probed["dir"]["writable"], &probed["aio_backend"]), (&true.into(), &Value::Null));
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn text_tells_the_same() {
    let text = Bench::new().text("probe --fail-on never");
    for words in
        ["uring", "libaio", "pthread", "RLIMIT_MEMLOCK", "aio-max-nr", "huge pages", "direct I/O", "findings: "]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn a_folder_that_takes_no_files_is_reported_with_the_reason() {
    // Not even root makes files there.
    let probed = probe(&mut Bench::new().command("probe /proc"));
    assert!(probed["dir"]["reason"].as_str().unwrap().contains("/proc"), "{probed}");
    assert_eq!((&probed["dir"]["direct_io"], &probed["dir"]["writable"]), (&Value::Null, &false.into()));
    let found = finding(&probed, "folder-not-writable").unwrap();
    assert!(found["severity"] == "error" && found["what"].as_str().unwrap().contains("/proc"), "{found}");
    assert_eq!(probed["dir"]["errno"], nix::errno::Errno::ENOENT as i32, "{probed}");
}

#[test]
fn the_exit_code_follows_what_was_found() {
    let bench = Bench::new();
    for dir in [".", "/proc"] {
        let probed = probe(&mut bench.command(&format!("probe {dir}")));
        let has = |severity| probed["findings"].as_array().unwrap().iter().any(|found| found["severity"] == severity);
        let (errors, warnings) = (has("error"), has("warning"));
        assert!(errors || dir == ".", "{probed}");
        for (options, fails) in [
            ("", errors),
            (" --fail-on error", errors),
            (" --fail-on warning", errors || warnings),
            (" --fail-on never", false),
        ] {
            let mut command = bench.command(&format!("probe {dir}{options}"));
            let output = command.assert().code(if fails { 3 } else { 0 }).get_output().clone();
            let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            assert!(stdout.contains("findings: "), "the report is printed in any case: {stdout}");
            let sentence = stderr.contains(" of severity ") && stderr.trim_end().lines().count() == 1;
            assert_eq!(sentence && stderr.starts_with("error: "), fails, "{stderr}");
        }
    }
}

#[test]
fn files_in_memory_are_no_disk() {
    let on_tmpfs =
        nix::sys::statfs::statfs("/dev/shm").is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    if !on_tmpfs {
        println!("SKIPPED a probe of tmpfs: /dev/shm is none");
        return;
    }
    let probed = probe(&mut Bench::new().command("probe /dev/shm"));
    assert_eq!(finding(&probed, "folder-in-memory").unwrap()["severity"], "warning");
}

#[test]
fn limits_of_the_shell_are_found_with_what_raises_them() {
    let probed = probe_under("ulimit -n 256 && ulimit -f 100000");
    assert_eq!((&probed["open_files"]["soft"], &probed["file_size"]["soft"]), (&256.into(), &51_200_000.into()));
    for (id, figure, remedy) in [
        ("open-files-low", "RLIMIT_NOFILE is 256", "nofile=65536:65536"),
        ("file-size-limit", "RLIMIT_FSIZE is 48.8 MiB", "LimitFSIZE=infinity"),
    ] {
        let found = finding(&probed, id).unwrap();
        assert!(found["what"].as_str().unwrap().contains(figure), "{found}");
        assert!(
            found["remedy"].as_array().unwrap().iter().any(|step| step.as_str().unwrap().contains(remedy)),
            "{found}"
        );
    }
}

#[test]
fn a_limit_of_locked_memory_is_found_where_it_binds() {
    let probed = probe_under("ulimit -l 64");
    assert_eq!(probed["memlock"]["soft"], 65536);
    let matters = probed["memlock"]["exempt"] == false && probed["backends"][0]["available"] == true;
    assert_eq!(finding(&probed, "memlock-low").is_some(), matters, "{probed}");
}

#[test]
fn root_of_a_user_namespace_is_not_exempt_from_limits() {
    let bench = Bench::new();
    let mut command = assert_cmd::Command::new("unshare");
    command.current_dir(bench.path()).args(["--user", "--map-root-user"]);
    if !command.arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED a probe in a user namespace: unshare(1) makes none here");
        return;
    }
    let mut command = assert_cmd::Command::new("unshare");
    command.current_dir(bench.path()).env_remove("AIO_BACKEND").args(["--user", "--map-root-user"]);
    let probed = probe(command.arg(crate::PROGRAM).arg("probe"));
    assert_eq!(probed["memlock"]["exempt"], false, "{probed}");
}

#[test]
fn what_a_filter_refuses_is_found_by_its_error_number() {
    let bench = Bench::new();
    let free = probe(&mut bench.command("probe"));
    let uring =
        free["backends"][0]["available"] == true && matches!(free["io_uring_disabled"].as_u64(), None | Some(0));
    let libaio = free["backends"][1]["available"] == true;
    for (works, call, errno, id, severity) in [
        (uring, libc::SYS_io_uring_setup, libc::EPERM, "uring-refused", "error"),
        (uring, libc::SYS_io_uring_setup, libc::ENOSYS, "uring-missing", "error"),
        (uring, libc::SYS_io_uring_register, libc::EPERM, "uring-features-missing", "warning"),
        (libaio, libc::SYS_io_setup, libc::EPERM, "libaio-refused", "error"),
        (libaio, libc::SYS_io_setup, libc::EAGAIN, "aio-slots-used-up", "error"),
    ] {
        if !works {
            println!("SKIPPED {id}: the backend does not work here anyway");
            continue;
        }
        assert!(finding(&free, id).is_none(), "{id} is found without a filter: {free}");
        let Some(probed) = refusing(&[call], errno, || probe(&mut bench.command("probe"))) else { return };
        assert_eq!(finding(&probed, id).unwrap_or_else(|| panic!("{id}: {probed}"))["severity"], severity);
    }
}

#[test]
fn colours_are_for_terminals() {
    let bench = Bench::new();
    let escapes = |variables: &[(&str, &str)]| {
        let mut command = bench.command("probe /proc");
        let output = command.envs(variables.iter().copied()).assert().code(3).get_output().clone();
        String::from_utf8(output.stdout).unwrap().contains('\u{1b}')
    };
    assert!(!escapes(&[]), "a pipe is no terminal");
    assert!(escapes(&[("CLICOLOR_FORCE", "1")]));
    assert!(!escapes(&[("CLICOLOR_FORCE", "0"), ("NO_COLOR", "1")]));
}

#[test]
fn the_environment_decides_what_auto_means() {
    let bench = Bench::new();
    let probed = probe(bench.command("probe").env("AIO_BACKEND", "pthread"));
    assert_eq!((&probed["auto"], &probed["aio_backend"]), (&"pthread".into(), &"pthread".into()));
    assert!(finding(&probed, "aio-backend-unavailable").is_none(), "{probed}");
    let refused = bench.command("probe --json").env("AIO_BACKEND", "tape").assert().code(2).get_output().clone();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AIO_BACKEND"));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(crate::PROGRAM).args(["probe", "--fail-on", "never"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn a_reader_that_went_away_is_none() {
    let mut probe = Command::new(crate::PROGRAM)
        .args(["probe", "--fail-on", "never"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(probe.stdout.take());
    let output = probe.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
