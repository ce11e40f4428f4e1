//! Where few threads can be had, with lines of the command in `crate::NEEDING_THREADS`.

use std::os::unix::fs::chown;
use std::process::Command;

use super::bench::Bench;

#[test]
fn without_threads_there_is_a_sentence_or_a_result() {
    // A user that runs nothing else: RLIMIT_NPROC counts all threads of a user, and does not bind root or CAP_SYS_ADMIN.
    let user = 1_700_000_000 + std::process::id();
    let mut refused = 0;
    for line in crate::NEEDING_THREADS {
        for limit in 1..=14 {
            let bench = Bench::new();
            if let Err(error) = chown(bench.path(), Some(user), None) {
                return println!("SKIPPED a limit of threads: only root can be another user: {error}");
            }
            let mut command = Command::new("prlimit");
            command
                .arg(format!("--nproc={limit}"))
                .args(["setpriv", "--clear-groups", "--reuid"])
                .arg(user.to_string());
            command.arg(crate::PROGRAM).args(line.split(' ')).current_dir(bench.path()).env_remove("RUST_LOG");
            let output = command.output().unwrap();
            let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            let code = output.status.code();
            if code == Some(127) {
                return println!("SKIPPED a limit of threads: {stderr}");
            }
            assert!(!format!("{stdout}{stderr}").contains("panicked"), "{line}, {limit} threads: {stderr}");
            match code {
                Some(0) => {}
                Some(1) => {
                    refused += 1;
                    assert_eq!(bench.names(), Vec::<String>::new(), "{line}, {limit} threads");
                    let mut lines = stderr.lines();
                    let told = lines.any(|line| line.starts_with("error: ")) && stderr.contains("os error 11");
                    assert!(told, "{line}, {limit} threads: {stderr}");
                }
                code => panic!("{line}, {limit} threads: {code:?} {stderr}"),
            }
        }
    }
    assert!(refused >= crate::NEEDING_THREADS.len(), "one thread is enough for none of these");
}
