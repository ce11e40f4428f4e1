//! What was found: a table and lines for people, an object for programs.

use std::fmt;
use std::path::PathBuf;

use aio::Backend;
use serde::Serialize;

use crate::host::limits::{AioSlots, Memlock};
use crate::output;
use crate::size;

/// Everything that was looked at. What could not be found out is `null`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) backends: Vec<BackendReport>,
    /// The backend that `auto` means here; `AIO_BACKEND` has its say.
    pub(crate) auto: Option<&'static str>,
    pub(crate) dir: DirReport,
    pub(crate) memlock: Option<Memlock>,
    pub(crate) aio_slots: Option<AioSlots>,
    pub(crate) io_uring_disabled: Option<u64>,
    pub(crate) huge_pages: HugePages,
    pub(crate) page_size: u64,
    pub(crate) kernel: Option<String>,
    pub(crate) cpus: usize,
}

/// One backend.
#[derive(Debug, Serialize)]
pub(crate) struct BackendReport {
    pub(crate) backend: String,
    pub(crate) available: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) registered_memory: bool,
    pub(crate) registered_files: bool,
}

/// One folder's file system.
#[derive(Debug, Serialize)]
pub(crate) struct DirReport {
    pub(crate) path: PathBuf,
    pub(crate) file_system: Option<String>,
    pub(crate) free_bytes: Option<u64>,
    /// `null`: none, for the reason given.
    pub(crate) direct_io: Option<DirectIo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// In which units direct I/O is done, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct DirectIo {
    /// The engine's unit of offsets and lengths: what the file system asks for, and at least a page and a block of it.
    pub(crate) offset_alignment: u32,
    /// What the file system asks of addresses.
    pub(crate) memory_alignment: u32,
}

/// Huge pages that the kernel gives without a reservation.
#[derive(Debug, Serialize)]
pub(crate) struct HugePages {
    /// `always`, `madvise` or `never`.
    pub(crate) transparent: Option<String>,
    /// Bytes.
    pub(crate) size: Option<u64>,
}

impl BackendReport {
    /// Tries it.
    pub(crate) fn of(backend: Backend) -> Self {
        let probed = backend.probe();
        let (capabilities, reason) = match probed {
            Ok(capabilities) => (capabilities, None),
            Err(why) => (Default::default(), Some(why.reason)),
        };
        Self {
            backend: backend.to_string(),
            available: reason.is_none(),
            reason,
            features: capabilities.features,
            registered_memory: capabilities.registered_memory,
            registered_files: capabilities.registered_files,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = output::table(["backend", "available", "features, or why not"]);
        for backend in &self.backends {
            let available = if backend.available { "yes" } else { "no" };
            table.add_row([&backend.backend, available, &backend.explained()]);
        }
        writeln!(f, "{table}")?;
        let lines = [
            ("auto means", self.auto.unwrap_or("none: nothing works here").to_owned()),
            ("folder", self.dir.path.display().to_string()),
            ("  file system", self.dir.to_string()),
            ("  direct I/O", self.dir.direct()),
            ("locked memory", self.memlock.as_ref().map_or_else(unknown, Memlock::to_string)),
            ("Linux AIO slots", self.aio_slots.as_ref().map_or_else(unknown, AioSlots::to_string)),
            ("io_uring", io_uring_setting(self.io_uring_disabled).to_owned()),
            ("huge pages", self.huge_pages.to_string()),
            ("page size", size::show(self.page_size)),
            ("kernel", self.kernel.clone().unwrap_or_else(unknown)),
        ];
        for (name, value) in lines {
            writeln!(f, "{name:<17} {value}")?;
        }
        write!(f, "{:<17} {}", "CPUs", self.cpus)
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// `kernel.io_uring_disabled`, of sysctl/kernel.rst.
fn io_uring_setting(disabled: Option<u64>) -> &'static str {
    match disabled {
        None => "kernel.io_uring_disabled is not known to this kernel",
        Some(0) => "kernel.io_uring_disabled = 0: allowed for every process",
        Some(1) => "kernel.io_uring_disabled = 1: allowed for privileged processes and kernel.io_uring_group only",
        Some(_) => "kernel.io_uring_disabled = 2: switched off",
    }
}

impl BackendReport {
    fn explained(&self) -> String {
        match &self.reason {
            Some(reason) => reason.clone(),
            None => {
                let registered =
                    [(self.registered_memory, "registered memory"), (self.registered_files, "registered files")];
                let registered = registered.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
                self.features.iter().map(String::as_str).chain(registered).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl DirReport {
    fn direct(&self) -> String {
        match (&self.direct_io, &self.reason) {
            (Some(DirectIo { offset_alignment, memory_alignment }), _) => {
                format!("yes, in units of {offset_alignment} bytes, memory aligned to {memory_alignment}")
            }
            (None, Some(reason)) => format!("no: {reason}"),
            (None, None) => unknown(),
        }
    }
}

impl fmt::Display for DirReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_system.as_deref().unwrap_or("unknown"))?;
        match self.free_bytes {
            Some(free) => write!(f, ", {} free", size::show(free)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Memlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), size::show);
        write!(f, "RLIMIT_MEMLOCK {} (at most {})", shown(self.soft), shown(self.hard))?;
        if self.exempt { f.write_str("; does not bind this process, which has CAP_IPC_LOCK") } else { Ok(()) }
    }
}

impl fmt::Display for AioSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fs.aio-nr {} of fs.aio-max-nr {} in use", self.nr, self.max_nr)
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.size.map_or_else(unknown, size::show);
        match self.transparent.as_deref() {
            Some("always") => write!(f, "always, {size}"),
            Some("madvise") => write!(f, "where asked for (madvise), as this library does, {size}"),
            Some(other) => write!(f, "{other}: large transfers will be slower"),
            None => f.write_str("not built into this kernel: large transfers will be slower"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            backends: vec![
                BackendReport {
                    backend: "uring".to_owned(),
                    available: false,
                    reason: Some("a seccomp filter refuses io_uring_setup".to_owned()),
                    features: Vec::new(),
                    registered_memory: false,
                    registered_files: false,
                },
                BackendReport {
                    backend: "pthread".to_owned(),
                    available: true,
                    reason: None,
                    features: vec!["preadv".to_owned()],
                    registered_memory: false,
                    registered_files: false,
                },
            ],
            auto: Some("pthread"),
            dir: DirReport {
                path: "/data".into(),
                file_system: Some("ext4".to_owned()),
                free_bytes: Some(1 << 30),
                direct_io: None,
                reason: Some("cannot make a file in /data: Read-only file system".to_owned()),
            },
            memlock: Some(Memlock { soft: Some(8 << 20), hard: None, exempt: false }),
            aio_slots: Some(AioSlots { nr: 1, max_nr: 65536 }),
            io_uring_disabled: Some(2),
            huge_pages: HugePages { transparent: Some("never".to_owned()), size: None },
            page_size: 4096,
            kernel: None,
            cpus: 2,
        }
    }

    #[test]
    fn what_does_not_work_is_explained() {
        let text = report().to_string();
        for sentence in [
            "a seccomp filter refuses io_uring_setup",
            "auto means        pthread",
            "no: cannot make a file in /data: Read-only file system",
            "RLIMIT_MEMLOCK 8.0 MiB (at most unlimited)",
            "io_uring_disabled = 2: switched off",
            "never: large transfers will be slower",
        ] {
            assert!(text.contains(sentence), "{sentence}\n{text}");
        }
    }

    #[test]
    fn programs_get_numbers_and_nulls() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["memlock"], serde_json::json!({"soft": 8 << 20, "hard": null, "exempt": false}));
        assert_eq!((&json["dir"]["direct_io"], &json["kernel"]), (&().into(), &().into()));
        assert_eq!(json["backends"][1]["features"][0], "preadv");
    }
}
