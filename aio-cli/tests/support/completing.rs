//! Tests of `completions` for the command of the crate, with the crate's lines in `crate::COMPLETED`.

use std::fs;
use std::process::{Command, Stdio};

use super::bench::Bench;
use crate::{COMPLETED, NAME};

/// The commands, as the help lists them.
fn commands(bench: &Bench) -> Vec<String> {
    let help = bench.text("-h");
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    // A line with more indent continues the one above.
    let names = list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_script_names_every_command_and_its_options() {
    let bench = Bench::new();
    let commands = commands(&bench);
    assert!(commands.contains(&"completions".to_owned()), "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.text(&format!("completions {shell}"));
        assert!(!script.contains('\u{1b}'), "{shell}");
        let words: Vec<_> = script.split(|c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c))).collect();
        for word in commands.iter().map(String::as_str).chain([NAME]).chain(crate::OPTIONS) {
            let long = format!("--{word}");
            assert!(words.iter().any(|found| *found == word || *found == long), "{shell} lacks {word}");
        }
    }
}

/// A folder with a shell's script at `path`; `None`, with a printed line, if the shell is missing.
fn with_script(shell: &str, path: &str) -> Option<Bench> {
    let bench = Bench::new();
    let script = bench.text(&format!("completions {shell}"));
    if Command::new(shell).arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED {shell}: it is not installed");
        return None;
    }
    bench.file("f", b"");
    fs::create_dir(bench.path().join("d")).unwrap();
    fs::create_dir(bench.path().join(".hidden")).unwrap();
    bench.file(&format!(".hidden/{path}"), script.as_bytes());
    Some(bench)
}

/// What a shell without configuration prints for `commands`, within a minute.
fn printed(bench: &Bench, shell: &[&str], commands: &str) -> String {
    let mut command = Command::new("timeout");
    command.arg("60").args(shell).args(["-c", commands]).current_dir(bench.path());
    command.env("HOME", bench.path()).env_remove("XDG_CONFIG_HOME").env_remove("ZDOTDIR");
    let output = command.env("TERM", "dumb").env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{shell:?}: {}\n{text}{errors}", output.status);
    text
}

#[test]
fn bash_completes_with_it() {
    let Some(bench) = with_script("bash", NAME) else { return };
    // Bash adds folders itself, when compopt tells it to.
    for (typed, completed) in COMPLETED.into_iter().filter(|(_, completed)| !completed.ends_with('/')) {
        let words: Vec<_> = typed.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        // Only bash itself can call compopt, and only while it completes.
        let commands = format!(
            r#"compopt() {{ :; }}; source .hidden/{NAME}
            function=$(complete -p {NAME} | sed 's/.*-F \([^ ]*\).*/\1/')
            COMP_WORDS=({}); COMP_CWORD={}; COMP_LINE='{typed}'; COMP_POINT={}
            $function {NAME} '{last}' '{before}'; printf '%s\n' "${{COMPREPLY[@]}}""#,
            words.iter().map(|word| format!("'{word}' ")).collect::<String>(),
            words.len() - 1,
            typed.len(),
        );
        let offered = printed(&bench, &["bash", "--norc", "--noprofile"], &commands);
        let word = completed.split(' ').rfind(|word| !word.is_empty()).unwrap();
        assert_eq!(offered.lines().collect::<Vec<_>>(), [word], "{typed}");
    }
}

#[test]
fn fish_completes_with_it() {
    let Some(bench) = with_script("fish", &format!("{NAME}.fish")) else { return };
    for (typed, completed) in COMPLETED {
        let commands = format!("source .hidden/{NAME}.fish; complete --do-complete '{typed}'");
        let offered = printed(&bench, &["fish"], &commands);
        // A tab separates each word from its description.
        let offered: Vec<_> = offered.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(offered, [completed.split(' ').rfind(|word| !word.is_empty()).unwrap()], "{typed}");
    }
}

/// Presses the tab key in an interactive zsh; the key ^X shows the line. Keys are sent only once zsh edits a line:
/// before that, the terminal takes some of them.
#[test]
fn zsh_completes_with_it() {
    let Some(bench) = with_script("zsh", &format!("_{NAME}")) else { return };
    for (typed, completed) in COMPLETED {
        let commands = format!(
            r#"zmodload zsh/zpty; zpty inner zsh -f -i
            zpty -w inner 'PS1= PS2=; fpath=(./.hidden $fpath); autoload -U compinit; compinit -u -D'
            zpty -w inner 'show() {{ print -r -- "<$BUFFER>" }}; zle -N show; bindkey "^X" show'
            zpty -w inner 'zle-line-init() {{ print re''ady }}; zle -N zle-line-init'
            zpty -r -m inner text '*ready*'
            zpty -w -n inner $'{typed}\t\x18'
            zpty -r -m inner text '*<{NAME}*>*'
            print -r -- $text; zpty -d inner"#
        );
        let shown = printed(&bench, &["zsh", "-f"], &commands);
        // zsh puts `=` behind options that take a value.
        let completed = completed.trim_end();
        let forms = [completed, &format!("{completed} "), &format!("{completed}=")].map(|form| format!("<{form}>"));
        assert!(forms.iter().any(|form| shown.contains(form)), "{typed}: {shown:?}");
    }
}

#[test]
fn the_help_says_where_to_put_them() {
    let help = Bench::new().text("completions --help");
    for place in ["bash-completion/completions/NAME", "~/.zfunc/_NAME", "fish/completions/NAME.fish"] {
        let place = place.replace("NAME", NAME);
        assert!(help.contains(&place), "{place}\n{help}");
    }
}

#[test]
fn a_shell_that_is_not_known_is_refused() {
    let refused = Bench::new().refused("completions tcsh", 2);
    assert!(refused.contains("tcsh") && refused.contains("zsh"), "{refused}");
}
