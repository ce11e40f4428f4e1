//! A kernel that refuses some system calls, as it does in a container.

use std::io;
use std::thread;

use super::loud;

/// Runs `work` on a thread of its own, whose system calls of the numbers `calls` (and those of the threads it starts)
/// fail with `errno`, by a seccomp filter. `None`, said loudly, where there are no filters.
///
/// # Panics
///
/// When `work` does.
pub fn refusing<T: Send>(calls: &[libc::c_long], errno: i32, work: impl FnOnce() -> T + Send) -> Option<T> {
    let outcome = thread::scope(|scope| {
        let filtered = || match install(calls, errno) {
            Ok(()) => Some(work()),
            Err(error) => {
                loud(format_args!("SKIPPED a test with refused system calls: no seccomp filter: {error}"));
                None
            }
        };
        scope.spawn(filtered).join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Filters the calling thread from now on.
fn install(calls: &[libc::c_long], errno: i32) -> io::Result<()> {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let give = |verdict| step(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    // The number of the call is the first word of what a filter sees.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        program.push(give(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first takes no pointers; the second reads `filter` and the program it points to, which both outlive
    // the call.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}
