//! Which backends there are, and picking one.

use std::fmt;
use std::process;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aio_core::backend::{Capabilities, IoBackend, Unavailable};
use aio_core::{Error, Result};

/// A way to do I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// The first of the others that works here.
    #[default]
    Auto,
    /// io_uring: the fastest, with registered memory and files.
    Uring,
    /// Linux native AIO: where io_uring is forbidden, as in many containers.
    Libaio,
    /// `pread(2)` and `pwrite(2)` on threads: works everywhere.
    Pthread,
}

impl Backend {
    /// The environment variable that overrides [`Backend::Auto`]: `AIO_BACKEND`.
    pub const VARIABLE: &str = "AIO_BACKEND";

    /// Those that were compiled in, in the order in which [`Backend::Auto`] tries them.
    pub const COMPILED: &[Self] = &[
        #[cfg(feature = "uring")]
        Self::Uring,
        #[cfg(feature = "libaio")]
        Self::Libaio,
        #[cfg(feature = "pthread")]
        Self::Pthread,
    ];

    /// In the order of the enum, by which a backend is an index.
    const ALL: [Self; 4] = [Self::Auto, Self::Uring, Self::Libaio, Self::Pthread];

    /// The name, as `AIO_BACKEND` and errors have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Libaio => "libaio",
            Self::Pthread => "pthread",
        }
    }

    /// The implementation; `None` if it was not compiled in, and for `Auto`, which is not one.
    pub fn implementation(self) -> Option<Arc<dyn IoBackend>> {
        match self {
            #[cfg(feature = "uring")]
            Self::Uring => Some(Arc::new(aio_uring::UringBackend::default())),
            #[cfg(feature = "libaio")]
            Self::Libaio => Some(Arc::new(aio_libaio::LibaioBackend::default())),
            #[cfg(feature = "pthread")]
            Self::Pthread => Some(Arc::new(aio_pthread::PthreadBackend)),
            _ => None,
        }
    }

    /// Tries it with a real operation. For `Auto`: what [`Backend::COMPILED`] first offers.
    ///
    /// # Errors
    ///
    /// Why it cannot be used here, in a sentence.
    pub fn probe(self) -> Result<Capabilities, Unavailable> {
        if self == Self::Auto {
            let mut last = Err(self.not_compiled());
            for backend in Self::COMPILED {
                last = backend.probe();
                if last.is_ok() {
                    break;
                }
            }
            return last;
        }
        self.implementation().ok_or_else(|| self.not_compiled())?.probe()
    }

    /// Its implementation, once a [`probe`](Self::probe) has succeeded in this process: a second one would cost as much
    /// as opening a queue, or more. What has changed since then (limits, filters), opening a queue tells.
    pub(crate) fn probed(self) -> Result<Arc<dyn IoBackend>, Unavailable> {
        /// The process in which each succeeded; a forked child may have other limits.
        static PROCESSES: [AtomicU32; Backend::ALL.len()] = [const { AtomicU32::new(0) }; Backend::ALL.len()];
        let probed_in = &PROCESSES[self as usize];
        let implementation = self.implementation().ok_or_else(|| self.not_compiled())?;
        if probed_in.load(Ordering::Relaxed) != process::id() {
            implementation.probe()?;
            probed_in.store(process::id(), Ordering::Relaxed);
        }
        Ok(implementation)
    }

    pub(crate) fn not_compiled(self) -> Unavailable {
        let name = self.name();
        Unavailable::new(name, format!("it was not compiled in: enable the feature `{name}` of tensor-aio"), None)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name.trim().to_ascii_lowercase()).ok_or_else(|| {
            Error::Config {
                key: "backend".to_owned(),
                value: format!("{name:?}"),
                accepted: format!("it is one of {}", Self::ALL.map(Self::name).join(", ")),
            }
        })
    }
}
