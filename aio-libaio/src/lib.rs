//! The Linux native AIO (libaio) backend.
