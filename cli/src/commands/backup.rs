//! `gavel backup` and `gavel restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gavel_coordinator::{Address, CoordinatorOptions, Copied, Stores, copy};

use crate::diagnostic::{Diagnostic, Result};
use crate::output;
use crate::runtime::block_on;

/// Where a coordinator keeps its ledger and its blobs.
#[derive(Debug, Args)]
pub(crate) struct StoresArguments {
    /// Folder of the ledger and the blobs, unless --ledger and --blobs name other places.
    #[arg(long, value_name = "DIR", default_value = "gavel-data")]
    pub(crate) data: PathBuf,
    /// Ledger: postgres://USER@HOST/DATABASE, or a SQLite file [default: ledger.sqlite in --data].
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<Address>,
    /// Blobs: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: blobs in --data].
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<Address>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    #[command(flatten)]
    pub(crate) from: StoresArguments,
    /// The new folder of the backup.
    #[arg(value_name = "FOLDER")]
    pub(crate) to: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The folder of the backup.
    #[arg(value_name = "FOLDER")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) to: StoresArguments,
}

pub(super) fn backup(arguments: BackupArguments) -> Result<ExitCode> {
    let BackupArguments { from, to } = arguments;
    copy_runs(&from.into(), &CoordinatorOptions::new(to))
}

pub(super) fn restore(arguments: RestoreArguments) -> Result<ExitCode> {
    let RestoreArguments { from, to } = arguments;
    copy_runs(&CoordinatorOptions::new(from), &to.into())
}

/// Copies and says what was copied; the exit status is 1 when something was left out.
fn copy_runs(from: &CoordinatorOptions, to: &CoordinatorOptions) -> Result<ExitCode> {
    // Opening a ledger makes one where there is none.
    let file = from.data.join("ledger.sqlite");
    if from.ledger.is_none() && !file.is_file() {
        let problem = Diagnostic::new(format!("{} is not there: nothing to copy", file.display()));
        return Err(problem.with_hint("name the folder of a coordinator's ledger and blobs, or of a backup"));
    }
    let copied = block_on(async {
        let (from, to) = (Stores::open(from).await?, Stores::open(to).await?);
        let copied = copy(&from, &to).await?;
        from.ledger.close().await;
        to.ledger.close().await;
        Ok(copied)
    })?;
    let Copied {
        runs,
        events,
        blobs,
        bytes,
        verdicts,
        unreadable,
        missing,
    } = &copied;
    output::print_line(format_args!(
        "{runs} runs, {events} events, {blobs} blobs of {bytes} bytes, {verdicts} kept verdicts; every checksum and hash is right"
    ))?;
    for (run, reason) in unreadable {
        output::print_line(format_args!("NOT COPIED   run {run}: {reason}"))?;
    }
    for digest in missing {
        output::print_line(format_args!(
            "MISSING      blob {digest}: a run that needs it makes it again"
        ))?;
    }
    Ok(ExitCode::from(u8::from(!(unreadable.is_empty() && missing.is_empty()))))
}

impl From<StoresArguments> for CoordinatorOptions {
    fn from(arguments: StoresArguments) -> Self {
        let mut options = Self::new(arguments.data);
        options.ledger = arguments.ledger;
        options.blobs = arguments.blobs;
        options
    }
}
