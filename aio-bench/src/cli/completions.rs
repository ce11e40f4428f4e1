//! `aio-bench completions`.

use clap::Args;
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell.
#[derive(Debug, Args)]
#[command(after_long_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell to print it for.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Where to put it (make the folder if it is not there, and start a new shell afterwards):

  bash, with the package bash-completion:
    aio-bench completions bash > ~/.local/share/bash-completion/completions/aio-bench

  zsh, in a folder of $fpath; with this line in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)
    aio-bench completions zsh > ~/.zfunc/_aio-bench

  fish:
    aio-bench completions fish > ~/.config/fish/completions/aio-bench.fish";
