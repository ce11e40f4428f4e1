//! Signals all the time, with handlers that interrupt system calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::support::Folder;
use crate::support::child::alone;
use crate::workload::Workload;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
#[ignore = "needs a process of its own: .ci/faults"]
fn interrupt_everything_and_nothing_fails() {
    alone("signals::interrupt_everything_and_nothing_fails", || {
        // No SA_RESTART: system calls end with EINTR.
        let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGALRM, Signal::SIGPROF] {
            // SAFETY: the handler does nothing but an atomic addition.
            unsafe { sigaction(signal, &action) }.unwrap();
        }
        let every = |which, interval: Duration| {
            let interval = libc::timeval { tv_sec: 0, tv_usec: interval.as_micros() as i64 };
            let timer = libc::itimerval { it_interval: interval, it_value: interval };
            // SAFETY: the timer outlives the call, and nothing else is passed.
            assert_eq!(unsafe { libc::setitimer(which, &raw const timer, std::ptr::null_mut()) }, 0);
        };
        every(libc::ITIMER_REAL, Duration::from_micros(200));
        every(libc::ITIMER_PROF, Duration::from_micros(300));
        crate::each("a storm of signals", |backend, direct| {
            let before = SIGNALS.load(Ordering::Relaxed);
            let aio = crate::handle(backend, direct);
            let folder = Folder::new();
            let mut seed = 0;
            while seed < 3 || SIGNALS.load(Ordering::Relaxed) - before < 300 {
                seed += 1;
                Workload::new(&aio, &folder.path(&seed.to_string()), seed).run(4);
            }
        });
        every(libc::ITIMER_REAL, Duration::ZERO);
        every(libc::ITIMER_PROF, Duration::ZERO);
    });
}
