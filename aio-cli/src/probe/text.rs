//! The report for people to read: a table, lines, and the findings below.

mod findings;

use std::fmt;

use aio_core::shown;

use super::report::{BackendReport, DirReport, DirectIo, HugePages, Report};
use crate::host::limits::{AioSlots, Limit, Memlock};
use crate::output;
use crate::size;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |backend: &BackendReport| {
            let available = if backend.available { "yes" } else { "no" };
            [backend.backend.clone(), available.to_owned(), backend.explained()]
        };
        let header = ["backend", "available", "features, or why not"];
        writeln!(f, "{}", output::table(header, self.backends.iter().map(row)))?;
        let lines = [
            ("auto means", self.auto.unwrap_or("none: nothing works here").to_owned()),
            ("folder", shown(&self.dir.path).to_string()),
            ("  file system", self.dir.to_string()),
            ("  direct I/O", self.dir.direct()),
            ("locked memory", self.memlock.as_ref().map_or_else(unknown, Memlock::to_string)),
            ("open files", self.open_files.map_or_else(unknown, descriptors)),
            ("file size", self.file_size.map_or_else(unknown, file_size)),
            ("Linux AIO slots", self.aio_slots.as_ref().map_or_else(unknown, AioSlots::to_string)),
            ("io_uring", io_uring_setting(self.io_uring_disabled).to_owned()),
            ("huge pages", self.huge_pages.to_string()),
            ("page size", size::show(self.page_size)),
            ("kernel", self.kernel.clone().unwrap_or_else(unknown)),
            ("CPUs", self.cpus.to_string()),
        ];
        let columns = output::width();
        for (name, value) in lines {
            writeln!(f, "{}", output::wrap(&format!("{name:<17} "), &" ".repeat(18), &value, columns))?;
        }
        findings::write(f, &self.findings, columns)
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn descriptors(limit: Limit) -> String {
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    format!("RLIMIT_NOFILE {} (at most {})", shown(limit.soft), shown(limit.hard))
}

fn file_size(limit: Limit) -> String {
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), size::show);
    format!("RLIMIT_FSIZE {} (at most {})", shown(limit.soft), shown(limit.hard))
}

/// The meaning of `kernel.io_uring_disabled`, as in sysctl/kernel.rst.
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
            Some(other) if self.collapse => {
                write!(f, "{other}; this library makes its own (MADV_COLLAPSE), {size}")
            }
            Some(other) => write!(f, "{other}: large transfers will be slower"),
            None => f.write_str("not built into this kernel: large transfers will be slower"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::poor;

    #[test]
    fn what_does_not_work_is_explained() {
        let text = poor().to_string();
        for sentence in [
            "the kernel refuses uring",
            "auto means        libaio",
            "no: cannot make a file in /data: Read-only file system",
            "RLIMIT_MEMLOCK 8.0 MiB (at most unlimited)",
            "RLIMIT_NOFILE 1024 (at most 1048576)",
            "RLIMIT_FSIZE unlimited (at most unlimited)",
            "io_uring_disabled = 2: switched off",
            "never: large transfers will be slower",
        ] {
            assert!(text.contains(sentence), "{sentence}\n{text}");
        }
    }
}
