//! Runs the command in a folder of its own.

use std::fs;
use std::path::Path;

use aio::Backend;
use assert_cmd::Command;
use tempfile::TempDir;

/// A folder in which commands run.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The command with these arguments, separated by spaces.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(crate::PROGRAM);
        command.current_dir(&self.dir);
        for variable in ["RUST_LOG", "AIO_BACKEND", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command.args(line.split_whitespace());
        command
    }

    /// Runs a command that succeeds; returns its stdout.
    pub(crate) fn text(&self, line: &str) -> String {
        let output = self.command(line).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that succeeds; returns the JSON object that is all of its stdout.
    pub(crate) fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(line)).unwrap()
    }

    /// Runs a command that fails with this exit code and prints only sentences; returns these.
    pub(crate) fn refused(&self, line: &str, code: i32) -> String {
        let output = self.command(line).assert().code(code).get_output().clone();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{line}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{line}: {stderr}");
        stderr
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a file that is on the device and not in the page cache, so that direct reads are direct.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) {
        let path = self.path().join(name);
        fs::write(&path, contents).unwrap();
        let file = fs::File::open(path).unwrap();
        file.sync_all().unwrap();
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }

    /// The contents of a file.
    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    /// The names of all files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The backends that work here. Prints the others, and fails if `AIO_EXPECT` names one of them.
pub(crate) fn backends() -> Vec<&'static str> {
    let expected = std::env::var("AIO_EXPECT").unwrap_or_default();
    let works = |backend: &&Backend| {
        let probed = backend.probe();
        if let Err(reason) = &probed {
            assert!(
                !expected.split(',').any(|expected| expected == backend.name()),
                "{backend} was expected: {reason}"
            );
            println!("SKIPPED {backend}: {reason}");
        }
        probed.is_ok()
    };
    Backend::COMPILED.iter().filter(works).map(|backend| backend.name()).collect()
}
