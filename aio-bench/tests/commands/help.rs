//! The help is the manual.

use crate::support::bench::Bench;

#[test]
fn every_command_explains_itself_with_examples() {
    let bench = Bench::new();
    for command in ["run", "compare", "plot", "completions"] {
        let help = bench.text(&format!("{command} --help"));
        assert!(help.contains("Usage: aio-bench") && help.contains(&format!("  aio-bench {command}")), "{help}");
        assert!(bench.text(&format!("{command} -h")).len() < help.len());
    }
}

#[test]
fn examples_can_be_pasted() {
    let help = Bench::new().text("run --help");
    let examples = help.lines().skip_while(|line| *line != "Examples:").take_while(|line| !line.is_empty());
    let examples: Vec<_> = examples.collect();
    assert!(examples.len() > 9, "{help}");
    for lines in examples.windows(2) {
        assert!(lines[1].starts_with("  aio-bench run ") || lines[0].ends_with('\\'), "{lines:#?}");
    }
}

#[test]
fn the_overview_names_the_commands_and_the_exit_codes() {
    let help = Bench::new().text("--help");
    for words in ["run", "compare", "plot", "completions", "Exit codes"] {
        assert!(help.contains(words), "{words}\n{help}");
    }
    assert!(Bench::new().text("--version").starts_with("aio-bench "));
}
