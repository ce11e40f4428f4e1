//! Where and when figures were measured; without that they are worthless.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use serde::Serialize;

use aio_cli::host::{disk, limits, proc};
use aio_cli::size;

/// The machine, the file system and the time; `null` where the answer is unknown.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// In UTC, as in RFC 3339.
    date: String,
    cpu: Option<String>,
    cpus: usize,
    memory_bytes: Option<u64>,
    kernel: Option<String>,
    file_system: Option<String>,
}

impl Machine {
    /// This machine, with the file system of `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cpu: proc::value(&read("/proc/cpuinfo"), "model name").map(str::to_owned),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: proc::bytes(&read("/proc/meminfo"), "MemTotal"),
            kernel: limits::kernel_release(),
            file_system: disk::file_system(dir).ok(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let memory = self.memory_bytes.map_or_else(|| "unknown".to_owned(), size::show);
        write!(
            f,
            "{}: {} CPUs ({}), {memory} of memory, Linux {}, {}",
            self.date,
            self.cpus,
            or_unknown(&self.cpu),
            or_unknown(&self.kernel),
            or_unknown(&self.file_system)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let machine = Machine::of(Path::new("."));
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{machine:?}");
        let text = machine.to_string();
        assert!(text.starts_with("20") && text.contains("Z: ") && text.contains(" of memory, Linux "), "{text}");
    }
}
