//! Backends that cannot be used, by the error number of the refused call, never by its sentence.

use nix::errno::Errno;

use super::Finding;
use super::Severity::{Error, Note};
use super::finding;
use super::kernel;
use super::limits::{self, RAISE_MEMLOCK, RAISE_OPEN_FILES};
use crate::probe::report::{BackendReport, Report};

/// The system calls of the backend, as seccomp profiles name them.
const URING_CALLS: &str = "io_uring_setup, io_uring_enter, io_uring_register";
const LIBAIO_CALLS: &str = "io_setup, io_destroy, io_submit, io_getevents";

pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let refused = report.backends.iter().filter(|row| !row.available);
    let refused = refused.filter_map(|row| match row.backend.as_str() {
        "uring" => Some(uring(report, row)),
        "libaio" => libaio(report, row),
        _ => Some(other("pthread-unavailable", row)),
    });
    nothing_starts(report).into_iter().chain(refused).chain(restricted(report)).collect()
}

/// A handle cannot start unless code or configuration names a backend.
fn nothing_starts(report: &Report) -> Option<Finding> {
    if report.auto.is_some() {
        return None;
    }
    let works: Vec<_> = report.backends.iter().filter(|row| row.available).map(|row| row.backend.as_str()).collect();
    match (&report.aio_backend, works.first()) {
        (Some(name), Some(first)) => Some(finding(
            Error,
            "aio-backend-unavailable",
            format!(
                "AIO_BACKEND is {name:?}, and a handle cannot start on that backend here, although others do: {}",
                works.join(", ")
            ),
            [
                "`unset AIO_BACKEND`, so that the best backend that works is taken",
                &format!("`export AIO_BACKEND={first}`"),
            ],
        )),
        _ => Some(finding(
            Error,
            "no-backend",
            "no handle can start: none of the backends works here",
            ["put right what is said of any one of them: one is enough"],
        )),
    }
}

fn uring(report: &Report, row: &BackendReport) -> Finding {
    match (row.errno.map(Errno::from_raw), report.io_uring_disabled) {
        (Some(Errno::EPERM), Some(2)) => finding(
            Error,
            "uring-disabled",
            "the sysctl kernel.io_uring_disabled is 2: io_uring is off for every process",
            [
                "`sudo sysctl -w kernel.io_uring_disabled=0` (on the host, if this is a container)",
                "for good: the line `kernel.io_uring_disabled = 0` in /etc/sysctl.d/60-io-uring.conf, and any other \
                 file there that sets it to 2 changed",
            ],
        ),
        (Some(Errno::EPERM), Some(1)) => finding(
            Error,
            "uring-restricted",
            "the sysctl kernel.io_uring_disabled is 1: io_uring is for processes with CAP_SYS_ADMIN and for members of \
             kernel.io_uring_group, and this one is neither",
            MAY_USE_URING,
        ),
        (Some(errno @ (Errno::EPERM | Errno::EACCES)), _) => Finding {
            severity: Error,
            id: "uring-refused",
            what: format!(
                "io_uring is refused ({errno:?}), and not by a sysctl: a seccomp filter, such as the default profile of \
                 a container runtime, or a security module"
            ),
            remedy: let_through(URING_CALLS),
        },
        (Some(Errno::ENOSYS), _) => no_uring(report),
        (Some(Errno::ENOMEM), _) => Finding {
            severity: Error,
            id: "uring-no-memory",
            what: "a ring is refused for lack of memory that may be locked (ENOMEM)".to_owned(),
            remedy: limits::raise(&RAISE_MEMLOCK, report.memlock.as_ref().and_then(|limit| limit.hard)),
        },
        (Some(errno @ (Errno::EMFILE | Errno::ENFILE)), _) => Finding {
            severity: Error,
            id: "uring-no-descriptor",
            what: format!("a ring is refused for lack of a file descriptor ({errno:?})"),
            remedy: limits::raise(&RAISE_OPEN_FILES, report.open_files.and_then(|limit| limit.hard)),
        },
        _ => other("uring-unavailable", row),
    }
}

const MAY_USE_URING: [&str; 2] = [
    "`sudo sysctl -w kernel.io_uring_disabled=0`, and for good the line `kernel.io_uring_disabled = 0` in \
     /etc/sysctl.d/60-io-uring.conf",
    "or a group that may: `sudo groupadd --system io_uring`, then `sudo sysctl -w kernel.io_uring_group=$(getent group \
     io_uring | cut -d: -f3)` and `sudo usermod -aG io_uring USER`, and log in again",
];

fn no_uring(report: &Report) -> Finding {
    let release = report.kernel.as_deref().unwrap_or("this kernel");
    let old = kernel::version(report).is_some_and(|version| version < (5, 6));
    let (what, remedy) = if old {
        (format!("io_uring is not in Linux {release} (ENOSYS): the backend needs 5.6 or later"), Vec::new())
    } else {
        (
            format!(
                "io_uring is not in this kernel (ENOSYS), although Linux {release} can have it: it was built without \
                 CONFIG_IO_URING, or a seccomp filter hides it"
            ),
            let_through(URING_CALLS),
        )
    };
    let mut remedy = remedy;
    remedy.push("boot a kernel of Linux 5.6 or later (at its best from 6.6) that has CONFIG_IO_URING=y".to_owned());
    Finding { severity: Error, id: "uring-missing", what, remedy }
}

/// `None` if the finding on slots covers it.
fn libaio(report: &Report, row: &BackendReport) -> Option<Finding> {
    match row.errno.map(Errno::from_raw) {
        Some(Errno::EAGAIN) if report.aio_slots.is_some() => None,
        Some(errno @ (Errno::EPERM | Errno::EACCES)) => Some(Finding {
            severity: Error,
            id: "libaio-refused",
            what: format!("Linux native AIO is refused ({errno:?}): a seccomp filter or a security module"),
            remedy: let_through(LIBAIO_CALLS),
        }),
        Some(Errno::ENOSYS) => {
            let mut remedy = let_through(LIBAIO_CALLS);
            remedy.push("boot a kernel that has CONFIG_AIO=y".to_owned());
            Some(Finding {
                severity: Error,
                id: "libaio-missing",
                what:
                    "Linux native AIO is not in this kernel (ENOSYS): it was built without CONFIG_AIO, or a seccomp \
                       filter hides it"
                        .to_owned(),
                remedy,
            })
        }
        _ => Some(other("libaio-unavailable", row)),
    }
}

/// A finding for all other reasons: the backend's own sentence.
fn other(id: &'static str, row: &BackendReport) -> Finding {
    let reason = row.reason.as_deref().unwrap_or("for no known reason").trim_end_matches('.');
    let what = format!("the backend {} does not work here: {reason}", row.backend);
    let elsewhere = "put right what the sentence names, or take another backend: AIO_BACKEND, or `backend` in the \
                     configuration";
    finding(Error, id, what, [elsewhere])
}

/// io_uring works for this process, but not for unprivileged ones.
fn restricted(report: &Report) -> Option<Finding> {
    let works = report.backends.iter().any(|row| row.backend == "uring" && row.available);
    (works && report.io_uring_disabled == Some(1)).then(|| {
        finding(
            Note,
            "uring-restricted-to-some",
            "the sysctl kernel.io_uring_disabled is 1: this process may use io_uring; one without CAP_SYS_ADMIN that is \
             not in kernel.io_uring_group may not",
            MAY_USE_URING,
        )
    })
}

/// How to let system calls through a filter.
fn let_through(calls: &str) -> Vec<String> {
    vec![
        "Docker and Podman, to see whether it is the profile: `docker run --security-opt seccomp=unconfined ...`, or \
         `podman run` with the same option"
            .to_owned(),
        format!(
            "for good: a copy of the runtime's profile (Docker's is at \
             https://github.com/moby/profiles/blob/main/seccomp/default.json) that also allows {calls}, and `docker run \
             --security-opt seccomp=/path/to/profile.json ...`"
        ),
        "Kubernetes: that file under /var/lib/kubelet/seccomp of each node, and in the pod `securityContext: \
         {seccompProfile: {type: Localhost, localhostProfile: profile.json}}`; `type: Unconfined` to try"
            .to_owned(),
        "a systemd service that filters by SystemCallFilter=: add the line `SystemCallFilter=@aio`".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_only, found};
    use super::*;
    use crate::probe::report::tests::refuse;

    #[test]
    fn each_refusal_of_io_uring_has_its_remedy() {
        for (errno, disabled, id, words) in [
            (Some(Errno::EPERM), Some(2), "uring-disabled", "sysctl -w kernel.io_uring_disabled=0"),
            (Some(Errno::EPERM), Some(1), "uring-restricted", "kernel.io_uring_group=$(getent group io_uring"),
            (Some(Errno::EPERM), Some(0), "uring-refused", "--security-opt seccomp="),
            (Some(Errno::EPERM), None, "uring-refused", "localhostProfile"),
            (Some(Errno::EACCES), Some(2), "uring-refused", "EACCES"),
            (Some(Errno::ENOSYS), Some(0), "uring-missing", "CONFIG_IO_URING"),
            (Some(Errno::ENOMEM), Some(0), "uring-no-memory", "LimitMEMLOCK=infinity"),
            (Some(Errno::EMFILE), Some(0), "uring-no-descriptor", "ulimit -n"),
            (Some(Errno::EINVAL), Some(0), "uring-unavailable", "the kernel refuses uring"),
            (None, Some(2), "uring-unavailable", "the kernel refuses uring"),
        ] {
            assert_only(Error, id, &[words], |report| {
                report.io_uring_disabled = disabled;
                report.auto = Some("libaio");
                refuse(report, "uring", errno);
            });
        }
    }

    #[test]
    fn a_kernel_that_is_too_old_is_told_from_a_filter() {
        let words = |release: &str| {
            let missing = found(|report| {
                refuse(report, "uring", Some(Errno::ENOSYS));
                report.kernel = Some(release.to_owned());
            });
            missing.into_iter().find(|(_, id, _)| *id == "uring-missing").unwrap().2
        };
        assert!(words("5.4.0-150-generic").contains("5.6 or later") && !words("5.4.0").contains("seccomp"));
        assert!(words("5.10.0").contains("seccomp"));
    }

    #[test]
    fn a_refusal_of_libaio_has_its_remedy() {
        for (errno, id, words) in [
            (Errno::EPERM, "libaio-refused", "io_submit"),
            (Errno::ENOSYS, "libaio-missing", "CONFIG_AIO"),
            (Errno::ENOMEM, "libaio-unavailable", "the kernel refuses libaio"),
        ] {
            assert_only(Error, id, &[words], |report| refuse(report, "libaio", Some(errno)));
        }
        assert_only(Error, "libaio-unavailable", &["refuses libaio"], |report| {
            refuse(report, "libaio", Some(Errno::EAGAIN));
            report.aio_slots = None;
        });
    }

    #[test]
    fn a_backend_that_was_asked_for_and_does_not_work_is_told_from_none_at_all() {
        let asked = found(|report| {
            (report.aio_backend, report.auto) = (Some("uring".to_owned()), None);
            refuse(report, "uring", Some(Errno::ENOSYS));
        });
        assert_eq!(
            asked.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
            ["aio-backend-unavailable", "uring-missing"]
        );
        for words in ["\"uring\"", "although others do: libaio, pthread", "unset AIO_BACKEND", "AIO_BACKEND=libaio"] {
            assert!(asked[0].2.contains(words), "{words}\n{}", asked[0].2);
        }
        let none = found(|report| {
            (report.aio_backend, report.auto) = (Some("uring".to_owned()), None);
            ["uring", "libaio", "pthread"].into_iter().for_each(|name| refuse(report, name, None));
        });
        assert_eq!(
            none.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
            ["no-backend", "uring-unavailable", "libaio-unavailable", "pthread-unavailable"]
        );
    }

    #[test]
    fn a_backend_that_was_asked_for_and_works_is_none() {
        assert_eq!(found(|report| report.aio_backend = Some("pthread".to_owned())), []);
    }

    #[test]
    fn io_uring_that_only_some_may_use_is_worth_a_note() {
        assert_only(Note, "uring-restricted-to-some", &["usermod"], |report| report.io_uring_disabled = Some(1));
    }
}
