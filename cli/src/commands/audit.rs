//! `gavel audit`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gavel_review::RunFolder;

use super::print_json;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::block_on;

#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// The run's folder, or its name in runs/.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints every finding; the exit status is 1 when there is one.
pub(super) fn audit(arguments: &AuditArguments) -> Result<ExitCode> {
    let folder = RunFolder::open(&arguments.run)?;
    let report = block_on(async { Ok(gavel_review::audit::audit(&folder).await?) })?;
    if arguments.json {
        print_json(&report)?;
    } else {
        output::print(report.text())?;
    }
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}
