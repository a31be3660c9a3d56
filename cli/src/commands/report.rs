//! `gavel report`.

use std::path::PathBuf;

use clap::Args;
use gavel_review::report;

use super::source::SourceArguments;
use crate::assets::evaluator;
use crate::diagnostic::{Context as _, Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// The folder for adapter/, report.json and report.html [default: the run's own folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

pub(super) fn report(arguments: &ReportArguments) -> Result<()> {
    let source = arguments.source.open()?;
    let own = source.folder().map(|folder| folder.path().to_owned());
    let Some(out) = arguments.out.clone().or(own) else {
        return Err(
            Diagnostic::new("the run has no folder here to write the report to").with_hint("name one with --out")
        );
    };
    let evaluator = evaluator(source.spec());
    block_on(async { Ok(report::write(source.as_ref(), &out, evaluator.as_deref()).await?) })
        .context("the report was not written")?;
    output::print_line(report::summary(&out)?)
}
