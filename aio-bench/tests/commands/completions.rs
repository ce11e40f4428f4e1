//! `aio-bench completions`.

use crate::bench::Bench;

/// The commands, as the help lists them.
fn commands(bench: &Bench) -> Vec<String> {
    let help = bench.text("-h");
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    // A line that is indented further goes on with what the one above says.
    let names = list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_script_names_every_command_and_its_options() {
    let bench = Bench::new();
    let commands = commands(&bench);
    assert!(commands.len() > 4 && commands.contains(&"completions".to_owned()), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.text(&format!("completions {shell}"));
        assert!(!script.contains('\u{1b}'), "{shell}");
        let words: Vec<_> = script.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c))).collect();
        for word in commands.iter().map(String::as_str).chain(["aio-bench", "tensor-size", "fail-on", "bare"]) {
            let long = format!("--{word}");
            assert!(words.iter().any(|found| *found == word || *found == long), "{shell} lacks {word}");
        }
    }
}

#[test]
fn the_help_says_where_to_put_them() {
    let help = Bench::new().text("completions --help");
    for place in ["bash-completion/completions/aio-bench", "~/.zfunc/_aio-bench", "fish/completions/aio-bench.fish"] {
        assert!(help.contains(place), "{place}\n{help}");
    }
}

#[test]
fn a_shell_that_is_not_known_is_refused() {
    let refused = Bench::new().refused("completions tcsh", 2);
    assert!(refused.contains("tcsh") && refused.contains("zsh"), "{refused}");
}
