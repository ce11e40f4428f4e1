//! The help is the manual.

use crate::support::bench::Bench;

#[test]
fn every_command_explains_itself_with_examples() {
    let bench = Bench::new();
    for command in ["swap", "probe", "tune", "soak", "inspect", "verify", "completions"] {
        let help = bench.text(&format!("{command} --help"));
        assert!(help.contains("Usage: tensor-aio") && help.contains(&format!("  tensor-aio {command}")), "{help}");
        assert!(bench.text(&format!("{command} -h")).len() < help.len());
    }
}

#[test]
fn the_overview_names_the_commands_and_the_exit_codes() {
    let help = Bench::new().text("--help");
    for words in ["swap", "probe", "tune", "soak", "inspect", "verify", "completions", "Exit codes", "--tensor-size"]
    {
        assert!(help.contains(words), "{words}\n{help}");
    }
    assert!(Bench::new().text("--version").starts_with("tensor-aio "));
}
