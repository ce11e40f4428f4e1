//! fio as a peer: large blocks, as fast as it can, by its own clock.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aio::Backend;
use nix::fcntl::posix_fallocate;
use serde_json::Value;

const BLOCK: u64 = 1 << 20;

/// What every line has: huge pages, and no bookkeeping that can be left out.
const ALWAYS: [&str; 8] = [
    "--name=tensors",
    "--output-format=json",
    "--norandommap=1",
    "--gtod_reduce=1",
    "--group_reporting=1",
    "--direct=1",
    "--iomem_align=2m",
    "--bs=1m",
];

/// The fio on PATH, with the engine that works here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fio {
    engine: &'static [&'static str],
}

impl Fio {
    /// Finds fio; prints why there are no lines beside it if there is none.
    pub(crate) fn find() -> Option<Self> {
        let version = Command::new("fio").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            println!("fio is not on PATH: there are no lines beside it");
            return None;
        }
        let engine: &[&str] = if aio::builder().backend(Backend::Uring).build().is_ok() {
            &["--ioengine=io_uring", "--fixedbufs=1", "--registerfiles=1"]
        } else {
            &["--ioengine=libaio", "--userspace_reap=1"]
        };
        Some(Self { engine })
    }

    /// Reads whole blocks of files of a folder: bytes, and how long it took.
    pub(crate) fn read(self, folder: &Path, files: &[String]) -> (u64, Duration) {
        let mut fio = self.command(folder, files);
        done(fio.arg("--rw=read"), "read")
    }

    /// Writes new files that have so many bytes together, in whole blocks, with a sync. Allocating their space is part of
    /// the time, and fio's clock leaves it out, so it is done and timed here.
    pub(crate) fn write_new(self, folder: &Path, files: &[String], bytes: u64) -> (u64, Duration) {
        let each = bytes.div_ceil(files.len() as u64).next_multiple_of(BLOCK);
        let start = Instant::now();
        for file in files {
            let file = File::create(folder.join(file)).expect("a file");
            posix_fallocate(&file, 0, i64::try_from(each).expect("a length")).expect("room for the file");
        }
        let allocated = start.elapsed();
        let mut fio = self.command(folder, files);
        let (bytes, took) =
            done(fio.args(["--rw=write", "--overwrite=1", "--fallocate=none", "--end_fsync=1"]), "write");
        (bytes, allocated + took)
    }

    fn command(self, folder: &Path, files: &[String]) -> Command {
        let mut fio = Command::new("fio");
        fio.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1").stdin(Stdio::null()).current_dir(folder);
        fio.args(ALWAYS).args(self.engine).arg("--iodepth=32").arg("--file_service_type=sequential");
        fio.arg(format!("--filename={}", files.join(":")));
        fio
    }
}

/// Runs it to its end, and takes the figures of its report.
fn done(fio: &mut Command, side: &str) -> (u64, Duration) {
    let output = fio.output().expect("fio");
    assert!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // Notes can precede the object.
    let object = text.find('{').map_or("", |at| &text[at..]);
    let report: Value = serde_json::from_str(object).expect("fio's report");
    let figures = &report["jobs"][0][side];
    let bytes = figures["io_bytes"].as_u64().expect("bytes");
    let rate = figures["bw_bytes"].as_f64().expect("a rate");
    assert!(bytes > 0 && rate > 0.0, "fio moved nothing: {text}");
    (bytes, Duration::from_secs_f64(bytes as f64 / rate))
}
