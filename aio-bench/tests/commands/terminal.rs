//! The command on a narrow terminal.

use crate::support::bench::Bench;
use crate::support::screen::{assert_bars_take_one_line, assert_text_fits};

#[test]
fn bars_take_one_line() {
    let bench = Bench::new();
    bench.file("f", &[7; 1 << 20]);
    assert_bars_take_one_line(
        &bench,
        &[
            "compare --size 1M --only read --rounds 1 --runtime 0.001",
            "run --op read --file f --block-size 4K --runtime 1.1",
        ],
    );
}

#[test]
fn sentences_break_between_words() {
    assert_text_fits(&Bench::new(), "compare --size 1M --only read --rounds 1 --runtime 0.001");
}
