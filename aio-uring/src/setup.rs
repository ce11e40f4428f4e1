//! Setting a ring up: a ladder of flag sets, the best first, down to what the oldest kernel takes.
//!
//! A kernel that does not know a flag refuses the whole set with EINVAL, so the first rung it accepts is the best one
//! it has. See `io_uring_setup(2)`.

use std::io;

use io_uring::{Builder, IoUring};

/// One `IORING_SETUP_` flag: its name in the man page and what sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    set: fn(&mut Builder) -> &mut Builder,
}

/// Flags that are asked for together.
pub(crate) type Rung = &'static [Flag];

/// Best first. Every rung that defers completions also has TASKRUN_FLAG: the queue reads it to know, without a system
/// call, that completions wait for one.
pub(crate) static LADDER: &[Rung] = &[
    &[SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL, NO_SQARRAY], // Linux 6.6
    &[SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL],             // 6.1
    &[SINGLE_ISSUER, COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL],              // 6.0
    &[COOP_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL],                             // 5.19
    &[SUBMIT_ALL],                                                         // 5.18
    &[],                                                                   // 5.6
];

/// One thread submits: the kernel drops locks, and refuses every other thread.
const SINGLE_ISSUER: Flag = Flag { name: "SINGLE_ISSUER", set: Builder::setup_single_issuer };
/// Completions are posted only while their owner asks for them, in batches, never by interrupting it.
const DEFER_TASKRUN: Flag = Flag { name: "DEFER_TASKRUN", set: Builder::setup_defer_taskrun };
/// Completions are posted on the owner's next system call, whichever it is.
const COOP_TASKRUN: Flag = Flag { name: "COOP_TASKRUN", set: Builder::setup_coop_taskrun };
/// The ring says in shared memory that completions wait to be posted.
const TASKRUN_FLAG: Flag = Flag { name: "TASKRUN_FLAG", set: Builder::setup_taskrun_flag };
/// A request that fails while it is submitted does not stop the batch behind it.
const SUBMIT_ALL: Flag = Flag { name: "SUBMIT_ALL", set: Builder::setup_submit_all };
/// Requests are taken in ring order, without an array of indices in between.
const NO_SQARRAY: Flag = Flag { name: "NO_SQARRAY", set: Builder::setup_no_sqarray };

/// Sets up a ring of at least `entries` submissions, fewer where the kernel's maximum is below, on the first rung that
/// the kernel takes.
pub(crate) fn open(ladder: &[Rung], entries: u32) -> io::Result<(IoUring, Rung)> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for rung in ladder {
        let mut builder = IoUring::builder();
        builder.setup_clamp();
        for flag in *rung {
            (flag.set)(&mut builder);
        }
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, rung)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}
