//! The sentences for refusals.

use std::io;

use crate::refusal::explain;

#[test]
fn each_refusal_names_its_remedy() {
    let text = |errno, disabled| explain(&io::Error::from_raw_os_error(errno), disabled);
    assert!(text(libc::EPERM, "2").contains("io_uring_disabled=2"));
    assert!(text(libc::EPERM, "1").contains("io_uring_group"));
    for no_sysctl in ["0", ""] {
        assert!(text(libc::EPERM, no_sysctl).contains("seccomp"));
    }
    assert!(text(libc::ENOSYS, "0").contains("Linux 5.6"));
    assert!(text(libc::ENOMEM, "0").contains("RLIMIT_MEMLOCK"));
    assert!(text(libc::EMFILE, "0").contains("RLIMIT_NOFILE"));
    for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::ENOMEM, libc::EIO] {
        let text = text(errno, "0");
        assert!(!text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "one sentence: {text}");
    }
}
