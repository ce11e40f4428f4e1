//! Ops on borrowed memory.
//!
//! As with [`std::thread::scope`], what makes lending sound is that the function does not return, nor unwind, before
//! every op of the scope has ended; a guard that could be forgotten would not do.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use crate::api::file::AioFile;
use crate::engine::Shared;
use crate::engine::promise::{Promise, ScopeSync};
use crate::engine::transfer::{Op, OpOptions, Transfer};
use crate::error::{Error, Failures, Result};
use crate::foreign::log;
use crate::op::buf::{IoBuf, IoBufMut};
use crate::op::desc::{IoOpDesc, PathMode, Target};
use crate::op::owned::Owned;

/// Takes ops on memory that is borrowed for `'env`; see [`AioHandle::scope`](crate::AioHandle::scope).
///
/// ```
/// # fn main() -> aio::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("layer0");
/// let aio = aio::builder().build()?;
/// let file = aio.create(&path)?;
///
/// let weights = vec![0.5f32; 10_000];
/// let mut norm = [0u8; 100];
/// aio.scope(|scope| {
///     scope.write(&file, &weights[..5000], 0); // any number of ops, all in flight at once
///     scope.write(&file, &weights[5000..], 20_000);
/// })?; // here all of them have ended
/// aio.scope(|scope| scope.read(&file, &mut norm, 300))?;
/// assert_eq!(norm[..4], weights[75].to_ne_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    shared: Arc<Shared>,
    options: OpOptions,
    ops: Arc<ScopeSync>,
    /// Invariant in both, as in `std::thread::Scope`.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Runs `body` and waits for the ops that it started, whatever happens.
pub(crate) fn scope<'env, R>(
    shared: &Arc<Shared>,
    options: OpOptions,
    body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
) -> Result<R> {
    shared.check_may_wait()?;
    let scope = Scope { shared: shared.clone(), options, ops: Arc::default(), scope: PhantomData, env: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| body(&scope)));
    if shared.is_forked() {
        // `body` forked, and this is the child: its memory is a copy, and the ops are the parent's.
        return result.map_or_else(|panic| resume_unwind(panic), |_| Err(Error::Forked));
    }
    let waited = scope.ops.wait();
    match result {
        Ok(result) => waited.map(|()| result).map_err(Error::from),
        Err(panic) => {
            if let Err(failures) = waited {
                report_unwinding(&failures);
            }
            resume_unwind(panic)
        }
    }
}

/// The caller gets the panic, so the log gets the failures.
fn report_unwinding(failures: &Failures) {
    log(|| tracing::warn!(%failures, "ops of a scope failed while it was unwinding"));
}

impl<'scope> Scope<'scope, '_> {
    /// Reads `buffer.len()` bytes of `file` at `offset`.
    pub fn read<B: IoBufMut + 'scope>(&'scope self, file: &AioFile, buffer: B, offset: u64) {
        self.submit(Owned::read(file.target(), buffer, offset), file.options());
    }

    /// Writes `buffer` to `file` at `offset`.
    pub fn write<B: IoBuf + 'scope>(&'scope self, file: &AioFile, buffer: B, offset: u64) {
        self.submit(Owned::write(file.target(), buffer, offset), file.options());
    }

    /// Reads extents of one file, each into its own memory.
    pub fn read_vectored<B: IoBufMut + 'scope>(&'scope self, file: &AioFile, extents: Vec<(u64, B)>) {
        self.submit(Owned::read_vectored(file.target(), extents), file.options());
    }

    /// Writes extents of one file, each from its own memory.
    pub fn write_vectored<B: IoBuf + 'scope>(&'scope self, file: &AioFile, extents: Vec<(u64, B)>) {
        self.submit(Owned::write_vectored(file.target(), extents), file.options());
    }

    /// Reads the first `buffer.len()` bytes of the file at `path`, which the engine opens.
    pub fn read_path<B: IoBufMut + 'scope>(&'scope self, path: impl AsRef<Path>, buffer: B) {
        self.submit(Owned::read(Target::at(path, PathMode::Read), buffer, 0), self.options);
    }

    /// Writes `buffer` to a new file at `path`; an existing one is an error.
    pub fn write_new<B: IoBuf + 'scope>(&'scope self, path: impl AsRef<Path>, buffer: B) {
        self.submit(Owned::write(Target::at(path, PathMode::WriteNew), buffer, 0), self.options);
    }

    /// Writes `buffer` as the whole contents of the file at `path`, which is made if it does not exist.
    pub fn write_path<B: IoBuf + 'scope>(&'scope self, path: impl AsRef<Path>, buffer: B) {
        self.submit(Owned::write(Target::at(path, PathMode::Write), buffer, 0), self.options);
    }

    fn submit<T: Send + 'scope>(&'scope self, desc: Owned<T>, options: OpOptions) {
        let desc = desc.validated(options.validate).scoped();
        let op: Arc<Op<dyn IoOpDesc + 'scope>> = self.shared.op(desc, Promise::new(Some(self.ops.clone())), options);
        // SAFETY: only the lifetime changes. What the descriptor holds of `'scope` is its value, which `fini` takes out
        // and drops; the engine calls `fini` before it tells the scope that the op has ended, and `scope` above returns
        // or unwinds only when all of its ops have. (An op that is lost aborts the process in `Promise::fulfil`; one
        // that is refused is finished below.) What the engine drops later, on any thread, is an empty shell.
        let op: Arc<Transfer> =
            unsafe { std::mem::transmute::<Arc<Op<dyn IoOpDesc + 'scope>>, Arc<Op<dyn IoOpDesc + 'static>>>(op) };
        self.ops.started();
        if let Err(error) = self.shared.submit_own(&op, options.when_full()) {
            op.refuse(error);
        }
    }
}
