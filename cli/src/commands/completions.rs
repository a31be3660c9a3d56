//! `gavel completions` and `gavel man`: what packages install beside the program.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::Arguments;
use crate::diagnostic::{Context as _, Result};
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The folder for the pages, one for each command.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Prints a script that completes commands and options in a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<()> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Arguments::command(), "gavel", &mut script);
    output::print(String::from_utf8_lossy(&script))
}

/// Writes the manual.
pub(super) fn man(arguments: &ManArguments) -> Result<()> {
    let out = &arguments.out;
    std::fs::create_dir_all(out)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), out))
        .with_context(|| format!("{}: cannot write the manual", out.display()))?;
    output::tell(format_args!("{}: `man -l {}/gavel.1`", out.display(), out.display()));
    Ok(())
}
