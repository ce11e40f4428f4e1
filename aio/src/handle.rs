//! The handle with backends to choose from.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use aio_core::{AioConfig, IoBackend, Result};

use crate::builder::Builder;

/// An engine on one of the backends of this crate.
///
/// It is an [`aio_core::AioHandle`], where its methods are documented, that knows how to pick a backend.
#[derive(Clone)]
pub struct AioHandle(aio_core::AioHandle);

impl AioHandle {
    /// Settings at their defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An engine on a backend of the caller's own.
    ///
    /// # Errors
    ///
    /// As [`aio_core::AioHandle::with_backend`].
    pub fn with_backend(backend: Arc<dyn IoBackend>, config: AioConfig) -> Result<Self> {
        aio_core::AioHandle::with_backend(backend, config).map(Self)
    }

    /// See [`aio_core::AioHandle::background`].
    pub fn background(&self) -> Self {
        Self(self.0.background())
    }

    /// See [`aio_core::AioHandle::validated`].
    pub fn validated(&self, validate: bool) -> Self {
        Self(self.0.validated(validate))
    }

    /// See [`aio_core::AioHandle::durable`].
    pub fn durable(&self, durable: bool) -> Self {
        Self(self.0.durable(durable))
    }

    /// See [`aio_core::AioHandle::close`].
    ///
    /// # Errors
    ///
    /// The failures of ops whose tickets were dropped.
    pub fn close(self) -> Result<()> {
        self.0.close()
    }
}

impl Deref for AioHandle {
    type Target = aio_core::AioHandle;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for AioHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
