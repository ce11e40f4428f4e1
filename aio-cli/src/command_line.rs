//! What clap prints in place of a command: help, a version, or an error.

use std::process;

use aio_core::Printable;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::tell;
use crate::output;

/// What else `--runtime` is called, here in earlier versions or elsewhere.
const RENAMED: [&str; 5] = ["--budget", "--seconds", "--hours", "--time", "--duration"];

/// Prints `error` for the command that `C` parses and ends the process, as clap's own `exit` does. Unlike that, it
/// fails where help cannot be printed, and escapes control characters.
pub fn exit<C: CommandFactory>(mut error: clap::Error) -> ! {
    if !error.use_stderr() {
        let printed = output::print(error.render().ansi().to_string().trim_end());
        process::exit(printed.map_or_else(|failure| tell(&failure), |()| 0));
    }
    let words = error.context().filter_map(|(kind, value)| match value {
        ContextValue::String(text) => Some((kind, text.clone(), Printable(text).to_string())),
        _ => None,
    });
    let mut unknown = None;
    for (kind, text, escaped) in words.collect::<Vec<_>>() {
        if text != escaped {
            // clap's suggestion repeats the word that was typed.
            error.insert(ContextKind::Suggested, ContextValue::None);
        } else if kind == ContextKind::InvalidArg && error.kind() == ErrorKind::UnknownArgument {
            unknown = Some(text);
        }
        error.insert(kind, ContextValue::String(escaped));
    }
    if let Some(option) = unknown.filter(|word| word.starts_with("--")) {
        help_out::<C>(&mut error, &option);
    }
    // There is no place left to report that stderr fails.
    let _ = error.print();
    process::exit(error.exit_code());
}

/// Says where an unknown option belongs. clap suggests to pass it as a value, which is never meant.
fn help_out<C: CommandFactory>(error: &mut clap::Error, option: &str) {
    error.insert(ContextKind::Suggested, ContextValue::None);
    let command = C::command();
    let has = |command: &clap::Command, option: &str| {
        command.get_arguments().any(|arg| arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long)))
    };
    let named = std::env::args().find_map(|word| command.find_subcommand(word));
    if RENAMED.contains(&option) && named.is_some_and(|named| has(named, "--runtime")) {
        error.insert(ContextKind::SuggestedArg, ContextValue::String("--runtime".to_owned()));
        // It shows how to use the option that clap would have suggested.
        error.insert(ContextKind::Usage, ContextValue::None);
        return;
    }
    let others = command.get_subcommands().filter(|other| has(other, option));
    let others: Vec<_> = others.map(|other| format!("'{} {}'", command.get_name(), other.get_name())).collect();
    if !others.is_empty() && error.get(ContextKind::SuggestedArg).is_none() {
        let tip = format!("'{option}' is an option of {}", others.join(" and "));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}
