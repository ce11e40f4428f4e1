//! Wakers that run something of the test's, and futures that are polled once.
#![allow(unreachable_pub, dead_code, reason = "each test file uses its part")]

use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};

/// A waker that runs `run` the first time it is woken, on the thread that wakes it.
pub fn on_wake(run: impl FnOnce() + Send + 'static) -> Waker {
    struct OnWake<F>(Mutex<Option<F>>);

    impl<F: FnOnce() + Send + 'static> Wake for OnWake<F> {
        fn wake(self: Arc<Self>) {
            let run = self.0.lock().unwrap().take();
            run.into_iter().for_each(|run| run());
        }
    }

    Waker::from(Arc::new(OnWake(Mutex::new(Some(run)))))
}

/// A waker that says when it is woken, and then holds up the thread that woke it until the test lets it go on.
pub fn holding() -> (Waker, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (woken, is_woken) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let hold = move || {
        // An error means that the test has failed and is gone.
        let _ = woken.send(());
        let _ = goes_on.recv();
    };
    (on_wake(hold), is_woken, go_on)
}

/// Leaves a waker with a future that is not ready.
#[track_caller]
pub fn leave_waker(future: &mut (impl Future + Unpin), waker: &Waker) {
    assert!(Pin::new(future).poll(&mut Context::from_waker(waker)).is_pending());
}
