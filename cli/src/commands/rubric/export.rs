//! `gavel rubric export`.

use std::path::PathBuf;

use clap::Args;

use crate::commands::source::SourceArguments;
use crate::diagnostic::{Context as _, Foreign as _, Result};
use crate::files::write_whole;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(super) source: SourceArguments,
    /// The new rubric set (TOML).
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
}

pub(super) fn export(arguments: &ExportArguments) -> Result<()> {
    let source = arguments.source.open()?;
    let file = block_on(async { Ok(gavel_review::rubrics(source.as_ref()).await?) })?;
    let text = file.to_toml().foreign().context("cannot write the rubric as TOML")?;
    write_whole(&arguments.out, &text)?;
    output::print(format_args!(
        "{} prompts have a set of their own\nwritten      {}\n",
        file.prompts.len(),
        arguments.out.display()
    ))
}
