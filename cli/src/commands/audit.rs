//! `gavel audit`.

use std::process::ExitCode;

use clap::Args;

use super::print_json;
use super::source::SourceArguments;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints every finding; the exit status is 1 when there is one.
pub(super) fn audit(arguments: &AuditArguments) -> Result<ExitCode> {
    let source = arguments.source.open()?;
    let report = block_on(async { Ok(gavel_review::audit::audit(source.as_ref()).await?) })?;
    if arguments.json {
        print_json(&report)?;
    } else {
        output::print(report.text())?;
    }
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}
