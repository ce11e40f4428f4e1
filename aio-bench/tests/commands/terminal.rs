//! The command on a narrow terminal.

use crate::support::bench::Bench;
use crate::support::screen::assert_bars_take_one_line;

#[test]
fn bars_take_one_line() {
    let bench = Bench::new();
    bench.file("f", &[7; 1 << 20]);
    assert_bars_take_one_line(
        &bench,
        &["compare --size 1M --only read --rounds 1", "run --op read --file f --block-size 4K --runtime 1.1"],
    );
}
