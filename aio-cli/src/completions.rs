//! Scripts that complete the command line in a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output;

/// Print a script that completes commands and options in a shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to print it for.
    #[arg(value_enum)]
    shell: Shell,
}

/// Where each shell looks for the script of the command `name`.
pub fn places(name: &str) -> String {
    format!(
        "\
Where to put it (make the folder if it is not there, and start a new shell afterwards):

  bash, with the package bash-completion:
    {name} completions bash > ~/.local/share/bash-completion/completions/{name}

  zsh, in a folder of $fpath; with this line in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
    {name} completions zsh > ~/.zfunc/_{name}

  fish:
    {name} completions fish > ~/.config/fish/completions/{name}.fish"
    )
}

/// Prints the script of the command that `C` parses.
pub fn completions<C: CommandFactory>(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        // clap_complete 4.6 spells the hyphen of the name in two ways; without this, subcommands would not complete.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    output::print(script.trim_end())
}
