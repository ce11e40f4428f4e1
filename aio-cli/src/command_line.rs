//! What clap prints in place of a command: help, a version, or an error.

use std::process;

use aio_core::Printable;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::tell;
use crate::output;

/// Former names of `--runtime`, by command.
const RENAMED: [&str; 3] = ["--budget", "--seconds", "--hours"];

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
    let mut renamed = false;
    for (kind, text, escaped) in words.collect::<Vec<_>>() {
        renamed |= kind == ContextKind::InvalidArg && RENAMED.contains(&text.as_str());
        if text != escaped {
            // clap's suggestion repeats the word that was typed.
            error.insert(ContextKind::Suggested, ContextValue::None);
        }
        error.insert(kind, ContextValue::String(escaped));
    }
    if renamed && error.kind() == ErrorKind::UnknownArgument && takes_runtime::<C>() {
        error.insert(ContextKind::SuggestedArg, ContextValue::String("--runtime".to_owned()));
        error.insert(ContextKind::Suggested, ContextValue::None);
        // It shows how to use the option that clap would have suggested.
        error.insert(ContextKind::Usage, ContextValue::None);
    }
    // There is no place left to report that stderr fails.
    let _ = error.print();
    process::exit(error.exit_code());
}

/// Whether the command on this line has `--runtime`.
fn takes_runtime<C: CommandFactory>() -> bool {
    let command = C::command();
    let named = std::env::args().find_map(|word| command.find_subcommand(word));
    named.is_some_and(|named| named.get_arguments().any(|arg| arg.get_long() == Some("runtime")))
}
