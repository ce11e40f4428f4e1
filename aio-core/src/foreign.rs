//! Code of others that the engine calls: callbacks, wakers, drops of users' values, subscribers of the log. A panic
//! in it ends there.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;

/// Runs foreign code. A panic becomes its message.
///
/// A value whose drop panics while another panic unwinds through it (two fields whose drops panic, for instance) aborts
/// the process: the language leaves nothing to catch.
pub(crate) fn contain<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(message_of)
}

/// Writes to the log. A panic of a subscriber ends here.
pub fn log(event: impl FnOnce()) {
    let _ = contain(event);
}

/// Runs foreign code; a panic becomes an error.
pub(crate) fn catch<R>(callback: &'static str, run: impl FnOnce() -> R) -> Result<R, Error> {
    contain(run).map_err(|message| Error::Panicked { callback, message })
}

/// As [`catch`], of code that has an error of its own.
pub(crate) fn attempt<R>(callback: &'static str, run: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    catch(callback, run).and_then(std::convert::identity)
}

/// Drops what belongs to a user; a panic in that goes to the log.
pub(crate) fn report_drop<T>(value: T) {
    report(catch("drop", || drop(value)));
}

/// A panic in code of the user's that has no op left to fail.
pub(crate) fn report(result: Result<(), Error>) {
    if let Err(error) = result {
        log(|| tracing::error!(%error, "a callback panicked after its op had ended"));
    }
}

/// The message of a panic, if it is text.
///
/// The drop of a payload is foreign code, too, and may panic with a payload of the same kind, without end. So the first
/// payload is dropped, and a second is leaked.
fn message_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Panics when it is dropped, with another of its kind.
    struct Bomb(Arc<AtomicUsize>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic_any(Self(self.0.clone()));
        }
    }

    #[test]
    fn a_panic_ends_here_whatever_its_payload_does() {
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(contain(|| panic!("some {}", "text")), Err::<(), _>("some text".to_owned()));
        assert_eq!(contain(|| panic!("text")), Err::<(), _>("text".to_owned()));
        let drops = Arc::new(AtomicUsize::new(0));
        let bomb = Bomb(drops.clone());
        assert_eq!(contain(|| panic_any(bomb)), Err::<(), _>("no message".to_owned()));
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_payload_that_can_be_dropped_is() {
        let payload = Arc::new(());
        let inside = payload.clone();
        contain(|| panic_any(inside)).unwrap_err();
        assert_eq!(Arc::strong_count(&payload), 1);
    }
}
