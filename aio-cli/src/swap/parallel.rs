//! Fills and hashes memory on all CPUs, so that this takes no longer than the I/O.

use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::failure::Failure;
use crate::interrupt;

/// Runs `work` for each of `items` on all CPUs of the process, or on as many threads as the system grants.
pub(crate) fn in_parallel<T: Send>(
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(T) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(8));
    let items = Mutex::new(items);
    let one_by_one = || {
        loop {
            interrupt::check()?;
            let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            match item {
                Some(item) => work(item)?,
                None => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let start = |_| thread::Builder::new().name("fill".to_owned()).spawn_scoped(scope, one_by_one).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut result = one_by_one();
        for other in others {
            let joined = other.join().unwrap_or_else(|_| Err(Failure::Failed("a thread panicked".to_owned())));
            result = result.and(joined);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        let mut items = vec![0; 1000];
        in_parallel(items.iter_mut(), |item| {
            *item += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(items, vec![1; 1000]);
    }

    #[test]
    fn a_failure_is_reported() {
        let failed = in_parallel(0..1000, |item| match item {
            500 => Err(Failure::Failed("item 500".to_owned())),
            _ => Ok(()),
        });
        assert_eq!(failed.unwrap_err().to_string(), "item 500");
    }
}
