//! Tests of the pool, and of the calls that its threads make.

mod pool;
mod request;
