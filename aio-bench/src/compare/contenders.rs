//! The contenders, each in its own file.

pub(crate) mod fio;
pub(crate) mod glommio;
pub(crate) mod mmap;
pub(crate) mod ours;
pub(crate) mod rio;
pub(crate) mod safetensors;
pub(crate) mod std_fs;
