//! tensor-aio
