//! The command on a narrow terminal.

use crate::model::whole;
use crate::support::bench::Bench;
use crate::support::screen::{assert_bars_take_one_line, assert_text_fits, run};

/// The lines of a table, after a check that none is too long.
fn table(text: &str, columns: usize) -> Vec<&str> {
    let lines: Vec<_> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
    let drawn = |line: &&str| line.starts_with(['┌', '│', '╞', '└']);
    let lines: Vec<_> = lines.into_iter().filter(drawn).collect();
    assert!(lines.len() > 4 && lines.iter().all(|line| line.chars().count() <= columns), "{text}");
    lines
}

/// The cells of all lines.
fn cells<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    lines.iter().flat_map(|line| line.split(['│', '┆'])).map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn tables_fit_in_and_their_words_stay_whole() {
    let bench = Bench::new();
    let (text, _) = run(&bench, "swap --tensors 2 --tensor-size 4K", 60);
    let lines = table(&text, 60);
    for word in ["swap-out", "verified", "3 of 3"] {
        assert!(cells(&lines).contains(&word), "{word}\n{text}");
    }
    assert_spreads_are_whole(&cells(&lines), &text);

    let (text, _) = run(&bench, "soak --runtime 0.1 --size 16M", 60);
    let lines = table(&text, 60);
    for word in ["backend", "verified", "planned", "pthread"] {
        assert!(cells(&lines).iter().any(|cell| cell.split(' ').any(|found| found == word)), "{word}\n{text}");
    }

    let (text, _) = run(&bench, "tune . --size 1M --runtime 1", 60);
    let lines = table(&text, 60);
    let cells = cells(&lines);
    // The spread of the defaults' ratio to themselves, whether or not they were measured again.
    assert!(cells.contains(&"[1.00..1.00]"), "{text}");
    assert_spreads_are_whole(&cells, &text);
}

fn assert_spreads_are_whole(cells: &[&str], text: &str) {
    for cell in cells.iter().filter(|cell| cell.contains("..") || cell.contains(['[', ']'])) {
        assert!(cell.contains('[') && cell.contains("..") && cell.ends_with(']'), "{cell}\n{text}");
    }
}

#[test]
fn tables_of_tensors_fit_in() {
    let bench = Bench::new();
    whole(&["model.layers.0.attention.weight", "b"]).save(&bench, "m.safetensors");
    for (line, word) in
        [("inspect m.safetensors", "model.layers.0.attention.weight"), ("verify m.safetensors", "tensors")]
    {
        let (text, _) = run(&bench, line, 60);
        assert!(cells(&table(&text, 60)).contains(&word), "{text}");
    }
}

#[test]
fn where_not_even_words_fit_in_they_are_broken() {
    let bench = Bench::new();
    let (text, _) = run(&bench, "swap --tensors 2 --tensor-size 4K", 40);
    table(&text, 40);
}

#[test]
fn sentences_break_between_words() {
    let bench = Bench::new();
    for line in ["probe --fail-on never", "soak --runtime 0.1 --size 16M"] {
        assert_text_fits(&bench, line);
    }
}

#[test]
fn bars_take_one_line() {
    let bench = Bench::new();
    whole(&["a", "b"]).save(&bench, "m.safetensors");
    let lines = ["swap --tensors 64 --tensor-size 64K", "tune . --size 1M --runtime 1", "verify m.safetensors"];
    assert_bars_take_one_line(&bench, &lines);
}
