//! The coordinator that is measured: a process of its own, so that its memory and time can be told from the generator's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gavel_review::{CoordinatorAddresses, Usage, usage};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::diagnostic::{Context as _, Foreign as _, Result};

/// How long it may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(60);

/// A coordinator in a temporary folder, on free ports of this machine.
pub(super) struct CoordinatorProcess {
    child: Child,
    addresses: CoordinatorAddresses,
    program: PathBuf,
    options: &'static [&'static str],
    folder: TempDir,
}

impl CoordinatorProcess {
    /// Starts the coordinator of `program`, or of this one, with these options besides, and waits until it serves.
    ///
    /// # Errors
    /// No temporary folder, no process, or it did not serve in time.
    pub(super) async fn start(program: Option<&Path>, options: &'static [&'static str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe().context("cannot find this program's own file")?,
        };
        Self::start_in(folder, program, options).await
    }

    async fn start_in(folder: TempDir, program: PathBuf, options: &'static [&'static str]) -> Result<Self> {
        let mut child = Command::new(&program)
            .args([
                "coordinator",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.path())
            .arg("--until-stdin-closes")
            .args(options)
            // A line for each worker that comes or goes would be measured too.
            .env("RUST_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {} as a coordinator", program.display()))?;
        let stdout = child.stdout.take().context("the coordinator's output is not piped")?;
        let mut line = String::new();
        tokio::time::timeout(READY_WITHIN, BufReader::new(stdout).read_line(&mut line))
            .await
            .foreign()
            .context("the coordinator does not serve")?
            .context("cannot read the coordinator's output")?;
        let addresses = serde_json::from_str(&line).context("the coordinator ended instead of serving")?;
        Ok(Self {
            child,
            addresses,
            program,
            options,
            folder,
        })
    }

    /// Kills it, and starts another one on what it has left. Also returns how long it took from there until that one serves.
    ///
    /// # Errors
    /// It cannot be killed; and as [`CoordinatorProcess::start`].
    pub(super) async fn start_again(mut self) -> Result<(Self, Duration)> {
        self.child.kill().await.context("cannot kill the coordinator")?;
        let begun = Instant::now();
        let started = Self::start_in(self.folder, self.program, self.options).await?;
        Ok((started, begun.elapsed()))
    }

    /// Where it listens for workers.
    pub(super) fn address(&self) -> &str {
        &self.addresses.grpc
    }

    /// Where it shows its metrics.
    pub(super) fn metrics(&self) -> String {
        format!("{}/metrics", self.addresses.http)
    }

    /// The folder of its blobs.
    pub(super) fn blob_folder(&self) -> PathBuf {
        self.folder.path().join("blobs")
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn usage(&self) -> Result<Usage> {
        self.child
            .id()
            .and_then(usage)
            .context("the coordinator ended while it was being measured")
    }

    /// Ends it in good order; returns the size of its ledger in bytes. The folder goes with it.
    ///
    /// # Errors
    /// It does not end, or its ledger cannot be read.
    pub(super) async fn end(mut self) -> Result<u64> {
        drop(self.child.stdin.take());
        tokio::time::timeout(END_WITHIN, self.child.wait())
            .await
            .foreign()
            .context("the coordinator does not end")?
            .context("cannot wait for the coordinator")?;
        self.ledger_bytes()
    }

    /// The size of its ledger in bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn ledger_bytes(&self) -> Result<u64> {
        ledger_bytes(self.folder.path()).context("cannot read the size of the ledger")
    }
}

/// The database with the log that has not been folded into it.
fn ledger_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("ledger.sqlite") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
