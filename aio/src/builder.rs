//! Building a handle.

use std::time::Duration;

use aio_core::backend::Unavailable;
use aio_core::{AioConfig, AioHandle, DirectMode, Error, Result};

use crate::backends::Backend;

/// Settings at their defaults, of a handle on the best backend that this machine has.
///
/// ```
/// # fn main() -> aio::Result<()> {
/// let aio = aio::builder().queue_depth(64).build()?;
/// println!("{}", aio.backend_name());
/// # Ok(())
/// # }
/// ```
pub fn builder() -> Builder {
    Builder::default()
}

/// Settings of a handle to be; see [`builder`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    backend: Option<Backend>,
    config: AioConfig,
}

impl Builder {
    /// Which backend; the default is what the configuration names, else [`Backend::Auto`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// All settings at once, such as [`AioConfig::from_json`] gives them. Replaces what was set before.
    pub fn config(mut self, config: AioConfig) -> Self {
        self.config = config;
        self
    }

    /// Blocks in flight per worker.
    pub fn queue_depth(mut self, blocks: usize) -> Self {
        self.config.queue_depth = blocks;
        self
    }

    /// Most bytes of one submission to the kernel; a multiple of the page size.
    pub fn block_size(mut self, bytes: usize) -> Self {
        self.config.block_size = bytes;
        self
    }

    /// Worker threads; DeepSpeed's `intra_op_parallelism`.
    pub fn threads(mut self, threads: usize) -> Self {
        self.config.intra_op_parallelism = threads;
        self
    }

    /// Most threads that copy from and to the page cache, beside the workers; 0: the workers do that.
    pub fn copy_threads(mut self, threads: usize) -> Self {
        self.config.copy_threads = threads;
        self
    }

    /// One system call per block.
    pub fn single_submit(mut self, on: bool) -> Self {
        self.config.single_submit = on;
        self
    }

    /// Refill the queue as completions arrive, rather than batch by batch.
    pub fn overlap_events(mut self, on: bool) -> Self {
        self.config.overlap_events = on;
        self
    }

    /// Whether files bypass the page cache.
    pub fn direct(mut self, direct: DirectMode) -> Self {
        self.config.direct = direct;
        self
    }

    /// Read every block back and compare.
    pub fn validate(mut self, on: bool) -> Self {
        self.config.validate = on;
        self
    }

    /// Most bytes that buffers of the handle may take.
    pub fn arena_limit(mut self, bytes: u64) -> Self {
        self.config.arena_limit = Some(bytes);
        self
    }

    /// How long threads look for a change before they sleep.
    pub fn spin(mut self, time: Duration) -> Self {
        self.config.spin = time;
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a value out of range or an unknown backend name, [`Error::Unavailable`] with the reason
    /// if the backend, or under [`Backend::Auto`] every backend, refuses.
    pub fn build(self) -> Result<AioHandle> {
        match self.choose()? {
            Backend::Auto => self.build_first(),
            backend => self.build_on(backend),
        }
    }

    /// What was set in code, else in the configuration, else in the environment.
    fn choose(&self) -> Result<Backend> {
        let configured = || self.config.backend.as_deref().map_or(Ok(Backend::Auto), str::parse);
        match self.backend.map_or_else(configured, Ok)? {
            Backend::Auto => match std::env::var(Backend::VARIABLE) {
                Ok(name) if !name.is_empty() => name.parse().map_err(|error| match error {
                    Error::Config { value, accepted, .. } => {
                        Error::Config { key: Backend::VARIABLE.to_owned(), value, accepted }
                    }
                    error => error,
                }),
                _ => Ok(Backend::Auto),
            },
            backend => Ok(backend),
        }
    }

    fn build_first(&self) -> Result<AioHandle> {
        let mut reasons = Vec::new();
        for backend in Backend::COMPILED {
            match self.build_on(*backend) {
                Err(Error::Unavailable(unavailable)) => {
                    tracing::info!(%unavailable, "trying the next backend");
                    reasons.push(unavailable.to_string());
                }
                built => return built,
            }
        }
        Err(Unavailable::new(Backend::Auto.name(), reasons.join("; "), None).into())
    }

    fn build_on(&self, backend: Backend) -> Result<AioHandle> {
        self.config.validate_ranges()?;
        AioHandle::with_backend(backend.probed()?, self.config.clone())
    }
}
