//! Limits of the process and of the machine that a default handle can hit.

use nix::errno::Errno;

use super::Finding;
use super::Severity::{Error, Warning};
use super::finding;
use crate::probe::report::Report;
use crate::size;

/// Files that each worker's queue registers; with fewer descriptors it makes a smaller table.
const REGISTERED_FILES: u64 = 1024;

/// The value of `fs.aio-max-nr` that Oracle and others ask for.
const USUAL_AIO_SLOTS: u64 = 1 << 20;

pub(super) fn findings(report: &Report) -> Vec<Finding> {
    [memlock(report), open_files(report), file_size(report), aio_slots(report)].into_iter().flatten().collect()
}

/// The limit is too low for the blocks in flight, let alone for all buffers.
fn memlock(report: &Report) -> Option<Finding> {
    let limit = report.memlock.as_ref().filter(|limit| !limit.exempt)?;
    let defaults = &report.defaults;
    let soft = limit.soft.filter(|soft| *soft < defaults.in_flight_bytes)?;
    // Only io_uring registers memory.
    report.backends.iter().find(|row| row.backend == "uring" && row.available)?;
    let what = format!(
        "RLIMIT_MEMLOCK is {}, and more than that is not registered with io_uring: a default handle has {} in flight \
         (queue depth {}, blocks of {}, threads {}), and all its buffers are to be registered; memory that is not was \
         measured to cost 58-105 us of CPU per block of 1 MiB, and memory that is 2.7-7.7 us",
        size::show(soft),
        size::show(defaults.in_flight_bytes),
        defaults.queue_depth,
        size::show(defaults.block_size),
        defaults.threads,
    );
    let mut remedy = raise(&RAISE_MEMLOCK, limit.hard);
    if let Some(hard) = limit.hard.filter(|hard| *hard >= defaults.in_flight_bytes) {
        remedy.insert(0, format!("in this shell, up to its hard limit: `ulimit -l {}`", hard / 1024));
    }
    remedy.push(
        "or exempt the process: CAP_IPC_LOCK, in a container that is not rootless `docker run --cap-add IPC_LOCK ...`"
            .to_owned(),
    );
    remedy.push(format!(
        "in place of no limit at all: what all buffers take, and at least {} (in KiB for the shell and limits.conf, in \
         bytes for Docker)",
        size::show(defaults.in_flight_bytes)
    ));
    Some(Finding { severity: Warning, id: "memlock-low", what, remedy })
}

fn open_files(report: &Report) -> Option<Finding> {
    let limit = report.open_files?;
    let soft = limit.soft.filter(|soft| *soft < REGISTERED_FILES)?;
    let what = format!(
        "RLIMIT_NOFILE is {soft}: opening more files at once fails with EMFILE, and of the {REGISTERED_FILES} files that \
         each thread can register with io_uring only so many fit"
    );
    Some(Finding { severity: Warning, id: "open-files-low", what, remedy: raise(&RAISE_OPEN_FILES, limit.hard) })
}

fn file_size(report: &Report) -> Option<Finding> {
    let limit = report.file_size?;
    let what = format!(
        "RLIMIT_FSIZE is {}: a write that would make a file larger fails with EFBIG (File too large)",
        size::show(limit.soft?)
    );
    Some(Finding { severity: Warning, id: "file-size-limit", what, remedy: raise(&RAISE_FILE_SIZE, limit.hard) })
}

/// Free slots of `fs.aio-max-nr`, io_setup(2).
fn aio_slots(report: &Report) -> Option<Finding> {
    let slots = report.aio_slots.as_ref()?;
    let need = report.defaults.aio_slots;
    let left = slots.max_nr.saturating_sub(slots.nr);
    // Another process may have freed slots since the backend was refused.
    let refused = report.backends.iter().any(|row| {
        row.backend == "libaio" && !row.available && row.errno.map(Errno::from_raw) == Some(Errno::EAGAIN)
    });
    let scarce = slots.nr > slots.max_nr / 10 * 9;
    if !(refused || left < need || scarce) {
        return None;
    }
    let used = format!("fs.aio-nr is {} of fs.aio-max-nr {}", slots.nr, slots.max_nr);
    let (severity, id, what) = if refused || left < need {
        let what = format!(
            "{used}: a default handle on the backend libaio asks for {need} slots, and io_setup fails with EAGAIN"
        );
        (Error, "aio-slots-used-up", what)
    } else {
        let what = format!(
            "{used}, over 90 %: a default handle on the backend libaio asks for {need}, and soon none will fit"
        );
        (Warning, "aio-slots-scarce", what)
    };
    let enough = slots.max_nr.saturating_mul(2).max(USUAL_AIO_SLOTS);
    Some(finding(
        severity,
        id,
        what,
        [
            &format!(
                "`sudo sysctl -w fs.aio-max-nr={enough}` (on the host, if this is a container: it is the machine's)"
            ),
            &format!("for good: the line `fs.aio-max-nr = {enough}` in /etc/sysctl.d/60-aio.conf"),
            "or fewer users of it: databases and virtual machines are the usual ones",
        ],
    ))
}

/// How to raise a resource limit.
pub(super) struct Raise {
    /// The option of the shell's `ulimit`.
    option: char,
    /// The name in limits.conf(5) and for Docker.
    item: &'static str,
    /// The directive of systemd.exec(5).
    directive: &'static str,
    value: Value,
}

enum Value {
    Unlimited,
    Number(u64),
}

pub(super) const RAISE_MEMLOCK: Raise =
    Raise { option: 'l', item: "memlock", directive: "LimitMEMLOCK", value: Value::Unlimited };
/// The kernel allows no unlimited number of open files (fs.nr_open).
pub(super) const RAISE_OPEN_FILES: Raise =
    Raise { option: 'n', item: "nofile", directive: "LimitNOFILE", value: Value::Number(65536) };
const RAISE_FILE_SIZE: Raise = Raise { option: 'f', item: "fsize", directive: "LimitFSIZE", value: Value::Unlimited };

/// Where to raise it; the shell is among them if `hard` (`None`: no limit) allows.
pub(super) fn raise(raise: &Raise, hard: Option<u64>) -> Vec<String> {
    let Raise { option, item, directive, value } = raise;
    let (shell, systemd, docker) = match value {
        Value::Unlimited => ("unlimited".to_owned(), "infinity".to_owned(), "-1:-1".to_owned()),
        Value::Number(number) => (number.to_string(), number.to_string(), format!("{number}:{number}")),
    };
    let here = match (value, hard) {
        (_, None) => Some(shell.clone()),
        (Value::Unlimited, Some(_)) => None,
        (Value::Number(number), Some(hard)) => {
            Some(number.min(&hard)).filter(|_| hard >= REGISTERED_FILES).map(u64::to_string)
        }
    };
    let here = here.map(|value| format!("in this shell: `ulimit -{option} {value}`"));
    here.into_iter()
        .chain([
            format!(
                "for logins: the line `* - {item} {shell}` in /etc/security/limits.conf (`root` in place of `*` for \
                 root), and log in again"
            ),
            format!("a systemd service: `{directive}={systemd}` in its [Service] section"),
            format!("Docker and Podman: `docker run --ulimit {item}={docker} ...`"),
        ])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_only, found};
    use super::*;
    use crate::host::limits::{AioSlots, Limit, Memlock};
    use crate::probe::report::tests::refuse;

    const MIB: u64 = 1 << 20;

    fn memlock(soft: u64, hard: Option<u64>, exempt: bool) -> impl FnOnce(&mut Report) {
        move |report| report.memlock = Some(Memlock { soft: Some(soft), hard, exempt })
    }

    #[test]
    fn memory_that_cannot_be_registered_names_the_limit_and_every_place_to_raise_it() {
        let words = [
            "8.0 MiB",
            "32.0 MiB in flight",
            "`* - memlock unlimited` in /etc/security/limits.conf",
            "`LimitMEMLOCK=infinity`",
            "--ulimit memlock=-1:-1",
            "--cap-add IPC_LOCK",
        ];
        assert_only(Warning, "memlock-low", &words, memlock(8 * MIB, Some(8 * MIB), false));
        assert_only(Warning, "memlock-low", &["`ulimit -l unlimited`"], memlock(8 * MIB, None, false));
        let bounded = found(memlock(8 * MIB, Some(64 * MIB), false));
        assert!(!bounded[0].2.contains("`ulimit -l unlimited`"), "the hard limit forbids it: {}", bounded[0].2);
        assert!(bounded[0].2.contains("`ulimit -l 65536`"), "{}", bounded[0].2);
    }

    #[test]
    fn memory_that_can_be_registered_or_never_is_no_finding() {
        assert_eq!(found(memlock(32 * MIB, Some(32 * MIB), false)), []);
        assert_eq!(found(memlock(0, Some(0), true)), []);
        // There is another finding, and this one would not help.
        let without_uring = found(|report| {
            memlock(0, Some(0), false)(report);
            refuse(report, "uring", Some(Errno::ENOSYS));
        });
        assert!(without_uring.iter().all(|(_, id, _)| *id != "memlock-low"), "{without_uring:?}");
    }

    #[test]
    fn few_descriptors() {
        let limit = |soft, hard| {
            move |report: &mut Report| report.open_files = Some(Limit { soft: Some(soft), hard: Some(hard) })
        };
        assert_only(
            Warning,
            "open-files-low",
            &["RLIMIT_NOFILE is 256", "`ulimit -n 65536`", "LimitNOFILE=65536", "nofile=65536:65536"],
            limit(256, 1 << 20),
        );
        assert!(found(limit(256, 1024))[0].2.contains("`ulimit -n 1024`"));
        assert!(!found(limit(256, 512))[0].2.contains("ulimit -n"));
        assert_eq!(found(limit(1024, 1024)), []);
    }

    #[test]
    fn a_limit_of_file_sizes() {
        assert_only(
            Warning,
            "file-size-limit",
            &["50.0 KiB", "`ulimit -f unlimited`", "LimitFSIZE=infinity"],
            |report| {
                report.file_size = Some(Limit { soft: Some(51_200), hard: None });
            },
        );
    }

    #[test]
    fn slots_of_native_aio() {
        let slots = |nr, max_nr| move |report: &mut Report| report.aio_slots = Some(AioSlots { nr, max_nr });
        let used_up =
            ["33 slots", "fs.aio-nr is 65504 of fs.aio-max-nr 65536", "`sudo sysctl -w fs.aio-max-nr=1048576`"];
        assert_only(Error, "aio-slots-used-up", &used_up, slots(65504, 65536));
        assert_only(Error, "aio-slots-used-up", &["/etc/sysctl.d/60-aio.conf"], slots(5, 0));
        assert_only(Warning, "aio-slots-scarce", &["over 90 %"], slots(60_000, 65536));
        assert_only(Warning, "aio-slots-scarce", &["fs.aio-max-nr = 4194304"], slots(2_000_000, 2_097_152));
        assert_eq!(found(slots(50_000, 65536)), []);
        // Slots that were freed between the two looks.
        assert_only(Error, "aio-slots-used-up", &["fs.aio-nr is 0 "], |report| {
            refuse(report, "libaio", Some(Errno::EAGAIN));
        });
    }
}
