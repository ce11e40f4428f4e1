//! The pread/pwrite thread pool backend.
