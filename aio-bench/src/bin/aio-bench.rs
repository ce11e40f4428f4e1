//! The command; all of it is in the library beside it.

fn main() {
    aio_bench::main();
}
