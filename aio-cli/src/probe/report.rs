//! The report for programs; `text` writes it for people.

use std::path::PathBuf;

use aio::{AioConfig, Backend};
use serde::Serialize;

use super::findings::Finding;
use crate::host::limits::{AioSlots, Limit, Memlock};
use crate::output::lossy;

/// The name and version of the object that programs get: `docs/schema/probe.json`.
pub(crate) const SCHEMA: &str = "tensor-aio/probe/1";

/// Everything that was examined; `null` where the answer is unknown.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    /// The findings, the worst first.
    pub(crate) findings: Vec<Finding>,
    pub(crate) backends: Vec<BackendReport>,
    /// The backend that `auto` selects here, which `AIO_BACKEND` can change.
    pub(crate) auto: Option<&'static str>,
    /// The value of `AIO_BACKEND`, if it is set.
    pub(crate) aio_backend: Option<String>,
    /// What a handle of the default configuration needs.
    pub(crate) defaults: Defaults,
    pub(crate) dir: DirReport,
    pub(crate) memlock: Option<Memlock>,
    pub(crate) open_files: Option<Limit>,
    pub(crate) file_size: Option<Limit>,
    pub(crate) aio_slots: Option<AioSlots>,
    pub(crate) io_uring_disabled: Option<u64>,
    pub(crate) huge_pages: HugePages,
    pub(crate) page_size: u64,
    pub(crate) kernel: Option<String>,
    pub(crate) cpus: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct BackendReport {
    pub(crate) backend: String,
    pub(crate) available: bool,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The error number of the refused system call, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
    pub(crate) features: Vec<String>,
    pub(crate) registered_memory: bool,
    pub(crate) registered_files: bool,
}

/// What one handle of the default configuration needs of the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Defaults {
    pub(crate) queue_depth: u64,
    pub(crate) block_size: u64,
    pub(crate) threads: u64,
    /// Bytes of the blocks that can be in flight at once.
    pub(crate) in_flight_bytes: u64,
    /// Slots of `fs.aio-max-nr` that the libaio backend takes.
    pub(crate) aio_slots: u64,
}

/// One folder's file system.
#[derive(Debug, Serialize)]
pub(crate) struct DirReport {
    #[serde(serialize_with = "lossy")]
    pub(crate) path: PathBuf,
    pub(crate) file_system: Option<String>,
    pub(crate) free_bytes: Option<u64>,
    /// Whether a file could be made there.
    pub(crate) writable: bool,
    /// `null` if there is none, for the reason given.
    pub(crate) direct_io: Option<DirectIo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The error number behind the reason, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
}

/// The alignment of direct I/O, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct DirectIo {
    /// The engine's unit of offsets and lengths: what the file system needs, and at least a page and a block of it.
    pub(crate) offset_alignment: u32,
    /// What the file system needs of addresses.
    pub(crate) memory_alignment: u32,
}

/// Transparent huge pages.
#[derive(Debug, Serialize)]
pub(crate) struct HugePages {
    /// `always`, `madvise` or `never`.
    pub(crate) transparent: Option<String>,
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Whether the kernel makes them of memory that is in use (`MADV_COLLAPSE`), whatever `transparent` says.
    pub(crate) collapse: bool,
}

impl Defaults {
    pub(crate) fn of(config: &AioConfig) -> Self {
        let [queue_depth, block_size, threads] =
            [config.queue_depth, config.block_size, config.intra_op_parallelism].map(|value| value as u64);
        Self {
            queue_depth,
            block_size,
            threads,
            in_flight_bytes: threads * queue_depth * block_size,
            // Each worker's queue has one more slot for its waker.
            aio_slots: threads * (queue_depth + 1),
        }
    }
}

impl BackendReport {
    /// Probes the backend.
    pub(crate) fn of(backend: Backend) -> Self {
        let probed = backend.probe();
        let (capabilities, reason, errno) = match probed {
            Ok(capabilities) => (capabilities, None, None),
            Err(why) => (Default::default(), Some(why.reason), why.errno),
        };
        Self {
            backend: backend.to_string(),
            available: reason.is_none(),
            reason,
            errno,
            features: capabilities.features,
            registered_memory: capabilities.registered_memory,
            registered_files: capabilities.registered_files,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nix::errno::Errno;

    use super::*;

    /// A machine without findings.
    pub(in crate::probe) fn healthy() -> Report {
        let uring = [
            "SINGLE_ISSUER",
            "DEFER_TASKRUN",
            "TASKRUN_FLAG",
            "SUBMIT_ALL",
            "NO_SQARRAY",
            "REGISTER_RING_FDS",
            "EXT_ARG",
        ];
        let backend = |name: &str, features: &[&str], registered| BackendReport {
            backend: name.to_owned(),
            available: true,
            reason: None,
            errno: None,
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            registered_memory: registered,
            registered_files: registered,
        };
        Report {
            schema: SCHEMA,
            findings: Vec::new(),
            backends: vec![
                backend("uring", &uring, true),
                backend("libaio", &["user-space reap", "IOCB_CMD_POLL"], false),
                backend("pthread", &[], false),
            ],
            auto: Some("uring"),
            aio_backend: None,
            defaults: Defaults::of(&AioConfig::default()),
            dir: DirReport {
                path: "/data".into(),
                file_system: Some("ext4".to_owned()),
                free_bytes: Some(1 << 40),
                writable: true,
                direct_io: Some(DirectIo { offset_alignment: 4096, memory_alignment: 512 }),
                reason: None,
                errno: None,
            },
            memlock: Some(Memlock { soft: None, hard: None, exempt: false }),
            open_files: Some(Limit { soft: Some(1024), hard: Some(1 << 20) }),
            file_size: Some(Limit { soft: None, hard: None }),
            aio_slots: Some(AioSlots { nr: 0, max_nr: 65536 }),
            io_uring_disabled: Some(0),
            huge_pages: HugePages { transparent: Some("madvise".to_owned()), size: Some(2 << 20), collapse: true },
            page_size: 4096,
            kernel: Some("6.18.44".to_owned()),
            cpus: 2,
        }
    }

    /// Makes a backend unavailable.
    pub(in crate::probe) fn refuse(report: &mut Report, name: &str, errno: Option<Errno>) {
        let row = report.backends.iter_mut().find(|row| row.backend == name).unwrap();
        *row = BackendReport {
            backend: name.to_owned(),
            available: false,
            reason: Some(format!("the kernel refuses {name}")),
            errno: errno.map(|errno| errno as i32),
            features: Vec::new(),
            registered_memory: false,
            registered_files: false,
        };
    }

    /// A machine on which much does not work.
    pub(in crate::probe) fn poor() -> Report {
        let mut report = healthy();
        refuse(&mut report, "uring", Some(Errno::EPERM));
        report.auto = Some("libaio");
        report.dir.direct_io = None;
        report.dir.reason = Some("cannot make a file in /data: Read-only file system".to_owned());
        report.memlock = Some(Memlock { soft: Some(8 << 20), hard: None, exempt: false });
        report.io_uring_disabled = Some(2);
        report.huge_pages = HugePages { transparent: Some("never".to_owned()), size: None, collapse: false };
        report.kernel = None;
        report
    }

    #[test]
    fn programs_get_numbers_and_nulls() {
        let json = serde_json::to_value(poor()).unwrap();
        assert_eq!(json["memlock"], serde_json::json!({"soft": 8 << 20, "hard": null, "exempt": false}));
        assert_eq!((&json["dir"]["direct_io"], &json["kernel"]), (&().into(), &().into()));
        assert_eq!(json["backends"][1]["features"][0], "user-space reap");
        assert_eq!(json["backends"][0]["errno"], Errno::EPERM as i32);
    }

    #[test]
    fn the_defaults_are_those_of_a_handle() {
        let mut config = AioConfig::default();
        (config.queue_depth, config.block_size, config.intra_op_parallelism) = (8, 1 << 16, 3);
        let defaults = Defaults::of(&config);
        assert_eq!((defaults.in_flight_bytes, defaults.aio_slots), (24 << 16, 27));
    }
}
