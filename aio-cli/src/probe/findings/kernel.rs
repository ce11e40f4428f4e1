//! What a newer kernel, or another setup of it, would do better.

use super::Finding;
use super::Severity::{Note, Warning};
use super::finding;
use crate::probe::report::Report;

/// Features of a ring that this project uses, by name in the report, and the Linux version that brought each.
const URING_FEATURES: [(&str, (u32, u32)); 7] = [
    ("EXT_ARG", (5, 11)),
    ("SUBMIT_ALL", (5, 18)),
    ("REGISTER_RING_FDS", (5, 18)),
    ("TASKRUN_FLAG", (5, 19)),
    ("SINGLE_ISSUER", (6, 0)),
    ("DEFER_TASKRUN", (6, 1)),
    ("NO_SQARRAY", (6, 6)),
];
/// Linux version with registered buffers in a sparse table.
const REGISTERED_MEMORY: (u32, u32) = (5, 13);
const CACHESTAT: (u32, u32) = (6, 5);

const SWITCH_ON: [&str; 2] = [
    "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled` (on the host, if this is a container), and \
     start programs anew",
    "for good: the kernel argument `transparent_hugepage=madvise`, in GRUB_CMDLINE_LINUX of /etc/default/grub, then `sudo \
     update-grub` (Debian, Ubuntu) or `sudo grub2-mkconfig -o /boot/grub2/grub.cfg` (Fedora, RHEL)",
];
const LET_REGISTER_THROUGH: &str = "let io_uring_register through, `docker run --security-opt \
                                    seccomp=/path/to/profile.json ...` in a container";

pub(super) fn findings(report: &Report) -> Vec<Finding> {
    let found = [huge_pages(report), unregistered(report), uring_features(report), cachestat(report)];
    found.into_iter().flatten().collect()
}

/// `6.18` of `6.18.44-generic`.
pub(super) fn version(report: &Report) -> Option<(u32, u32)> {
    let mut numbers = report.kernel.as_deref()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn huge_pages(report: &Report) -> Option<Finding> {
    const COST: &str = "1 MiB direct reads at queue depth 32 were measured at 0.51-0.67 GB/s over 4 KiB pages and at 1.5-2.0 \
                        GB/s over huge ones";
    match report.huge_pages.transparent.as_deref() {
        Some("always" | "madvise") => None,
        Some(set) if report.huge_pages.collapse => Some(finding(
            Note,
            "huge-pages-by-collapse",
            format!(
                "transparent huge pages are set to `{set}`, so buffers get theirs one by one when they are first used \
                 (MADV_COLLAPSE), which takes longer than to fault them in"
            ),
            SWITCH_ON,
        )),
        Some(set) => Some(finding(
            Warning,
            "huge-pages-off",
            format!(
                "transparent huge pages are set to `{set}`, and none could be made otherwise (MADV_COLLAPSE needs Linux \
                 6.1, and room on the machine and in the control group), so buffers lie in small ones: {COST}"
            ),
            SWITCH_ON,
        )),
        None => Some(finding(
            Warning,
            "huge-pages-missing",
            format!("/sys/kernel/mm/transparent_hugepage is not there, so buffers lie in small pages: {COST}"),
            ["boot a kernel that has CONFIG_TRANSPARENT_HUGEPAGE=y, or make /sys visible to the container"],
        )),
    }
}

/// io_uring registers no memory, although enough of it may be locked.
fn unregistered(report: &Report) -> Option<Finding> {
    let row = report.backends.iter().find(|row| row.backend == "uring" && row.available)?;
    let needs = report.defaults.in_flight_bytes;
    let bound = report.memlock.as_ref().filter(|limit| !limit.exempt).and_then(|limit| limit.soft);
    if row.registered_memory || bound.is_some_and(|bytes| bytes < needs) {
        return None;
    }
    let remedy = if version(report).is_some_and(|version| version < REGISTERED_MEMORY) {
        "boot Linux 5.13 or later"
    } else {
        LET_REGISTER_THROUGH
    };
    Some(finding(
        Warning,
        "uring-memory-unregistered",
        "io_uring takes no registered memory here: a block of 1 MiB was measured to cost 58-105 us of CPU without it, and \
         2.7-7.7 us with it",
        [remedy],
    ))
}

fn uring_features(report: &Report) -> Option<Finding> {
    let row = report.backends.iter().find(|row| row.backend == "uring" && row.available)?;
    let has = |name: &str| row.features.iter().any(|feature| feature == name);
    let missing: Vec<_> = URING_FEATURES.into_iter().filter(|(name, _)| !has(name)).collect();
    let since = missing.iter().map(|(_, since)| *since).max()?;
    let names: Vec<_> =
        missing.iter().map(|(name, (major, minor))| format!("{name} (Linux {major}.{minor})")).collect();
    let (major, minor) = since;
    let remedy = if version(report).is_some_and(|version| version >= since) {
        format!(
            "this kernel can have it, so that something refuses it, such as a seccomp profile: {LET_REGISTER_THROUGH}"
        )
    } else {
        format!("boot Linux {major}.{minor} or later; 6.6 has all of it")
    };
    Some(finding(
        Warning,
        "uring-features-missing",
        format!(
            "io_uring works here without {}: 4 KiB reads in batches of 16 were measured at 2.1 us of CPU each without any \
             of it, and at 1.7 us with all",
            names.join(", ")
        ),
        [&remedy],
    ))
}

fn cachestat(report: &Report) -> Option<Finding> {
    let release = report.kernel.as_deref()?;
    version(report).filter(|version| *version < CACHESTAT)?;
    Some(finding(
        Note,
        "no-cachestat",
        format!(
            "Linux {release} has no cachestat(2): under `direct = \"auto\"`, files that lie in the page cache are read from \
             the device all the same"
        ),
        ["boot Linux 6.5 or later, or set `direct` to \"off\" for files that are read again and again"],
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_only, found};
    use super::*;
    use crate::host::limits::Memlock;

    #[test]
    fn huge_pages_that_are_off() {
        assert_only(
            Warning,
            "huge-pages-off",
            &[
                "0.51-0.67",
                "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`",
                "transparent_hugepage=madvise",
            ],
            |report| {
                (report.huge_pages.transparent, report.huge_pages.collapse) = (Some("never".to_owned()), false);
            },
        );
        let by_collapse = ["MADV_COLLAPSE", "transparent_hugepage=madvise"];
        assert_only(Note, "huge-pages-by-collapse", &by_collapse, |report| {
            report.huge_pages.transparent = Some("never".to_owned());
        });
        assert_only(Warning, "huge-pages-missing", &["CONFIG_TRANSPARENT_HUGEPAGE"], |report| {
            report.huge_pages.transparent = None;
        });
        assert_eq!(found(|report| report.huge_pages.transparent = Some("always".to_owned())), []);
    }

    #[test]
    fn what_an_older_ring_lacks_is_named_with_the_kernel_that_has_it() {
        let without = |features: &'static [&str], release: &str| {
            let release = release.to_owned();
            move |report: &mut Report| {
                report.backends[0].features.retain(|feature| !features.contains(&feature.as_str()));
                report.kernel = Some(release);
            }
        };
        let newest = ["NO_SQARRAY (Linux 6.6)", "boot Linux 6.6"];
        assert_only(Warning, "uring-features-missing", &newest, without(&["NO_SQARRAY"], "6.5.1"));
        let two = without(&["SUBMIT_ALL", "REGISTER_RING_FDS"], "5.15.0");
        let found = found(two);
        assert_eq!(
            found.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(),
            ["uring-features-missing", "no-cachestat"]
        );
        assert!(found[0].2.contains("SUBMIT_ALL (Linux 5.18), REGISTER_RING_FDS (Linux 5.18)"), "{found:?}");
        assert!(found[0].2.contains("boot Linux 5.18"), "{found:?}");
        let refused = ["this kernel can have it", "io_uring_register"];
        assert_only(Warning, "uring-features-missing", &refused, without(&["REGISTER_RING_FDS"], "6.18.0"));
    }

    #[test]
    fn memory_that_is_not_registered_has_one_cause_at_a_time() {
        let without = |report: &mut Report| report.backends[0].registered_memory = false;
        assert_only(Warning, "uring-memory-unregistered", &["io_uring_register"], without);
        assert_only(Warning, "memlock-low", &[], |report| {
            without(report);
            report.memlock = Some(Memlock { soft: Some(4096), hard: Some(4096), exempt: false });
        });
        let old = found(|report| {
            without(report);
            report.kernel = Some("5.10.0-28-amd64".to_owned());
        });
        assert!(old[0].2.contains("boot Linux 5.13"), "{old:?}");
    }

    #[test]
    fn a_kernel_that_does_not_tell_what_is_cached() {
        let kernel = |release: &str| {
            let release = Some(release.to_owned());
            move |report: &mut Report| report.kernel = release
        };
        assert_only(Note, "no-cachestat", &["Linux 6.4.12-generic", "6.5"], kernel("6.4.12-generic"));
        assert_only(Note, "no-cachestat", &[], kernel("5.15"));
        for release in ["6.5.0", "7.0-rc1", "unheard of"] {
            assert_eq!(found(kernel(release)), [], "{release}");
        }
    }
}
