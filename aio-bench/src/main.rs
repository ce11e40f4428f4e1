//! aio-bench
fn main() {}
