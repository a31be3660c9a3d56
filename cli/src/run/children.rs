//! The processes of a local fleet: started, watched, started again within bounds, ended in good order.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gavel_core::spec::RunSpec;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::RunFolder;
use crate::commands::coordinator::Ready;
use crate::fault::Fault;

/// How often a process may end unasked before the run gives up.
const RESTARTS: u32 = 5;
/// A process that lived this long starts with a clean record.
const LONG_LIFE: Duration = Duration::from_secs(300);
/// The pause before the n-th restart is n times this.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a process may take to end in good order: a worker drains for up to 10 seconds.
const GRACE: Duration = Duration::from_secs(15);
/// How long a coordinator may take until it serves: after a crash it reads its ledger.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Heartbeats that a worker may miss before it is given up.
const MISSED_HEARTBEATS: u32 = 4;

/// A process with its standard input, which is held apart because waiting for a process would close it.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// The command line of a process, and where its log goes.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    arguments: Vec<String>,
    threads: usize,
    log: PathBuf,
}

impl Part {
    /// Starts this program again as that part. It ends when its standard input closes, so also when this process dies.
    fn spawn(&self, stdout: impl FnOnce(File) -> Stdio) -> anyhow::Result<Process> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open().with_context(|| format!("{}: cannot write the log", self.log.display()))?;
        let second = log
            .try_clone()
            .with_context(|| format!("{}: cannot write the log", self.log.display()))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .args(&self.arguments)
            .arg("--until-stdin-closes")
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(stdout(second))
            .stderr(log)
            // Ctrl-C in the terminal reaches this process alone, which then ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let stdin = child.stdin.take();
        Ok(Process { child, stdin })
    }

    fn gave_up(&self, what: &str, status: ExitStatus) -> anyhow::Error {
        let fault = |message: String, hint: Option<String>| {
            let all = format!("its log is {}", self.log.display());
            Fault::new(message).with_hint(hint.map_or(all.clone(), |hint| format!("{hint}; {all}")))
        };
        let outer = format!("the {} {what} ({status})", self.name);
        match last_error(&self.log) {
            Some((message, hint)) => anyhow::Error::new(fault(message, hint)).context(outer),
            None => fault(outer, None).into(),
        }
    }
}

/// The last error that a process printed, with its hint.
fn last_error(log: &Path) -> Option<(String, Option<String>)> {
    let text = std::fs::read_to_string(log).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let causes = lines[at + 1..]
        .iter()
        .map_while(|line| line.strip_prefix("caused by: "));
    let message = std::iter::once(&lines[at]["error: ".len()..])
        .chain(causes)
        .collect::<Vec<_>>()
        .join(": ");
    let hint = lines[at..]
        .iter()
        .find_map(|line| line.strip_prefix("hint: "))
        .map(str::to_owned);
    Some((message, hint))
}

/// Ends a process by closing its standard input; one that does not end in time is killed.
async fn end(mut process: Process) {
    drop(process.stdin.take());
    if tokio::time::timeout(GRACE, process.child.wait()).await.is_err() {
        tracing::warn!("a process did not end in time and is killed");
        let _ = process.child.kill().await;
    }
}

/// Keeps a part running until `stop`. Returns early only when it ended too often.
async fn keep(
    part: Part,
    mut process: Process,
    stop: CancellationToken,
    stdout: fn(File) -> Stdio,
) -> anyhow::Result<()> {
    let mut deaths = 0;
    loop {
        let started = Instant::now();
        let status = tokio::select! {
            status = process.child.wait() => status.with_context(|| format!("cannot watch {}", part.name))?,
            () = stop.cancelled() => {
                end(process).await;
                return Ok(());
            }
        };
        deaths = if started.elapsed() >= LONG_LIFE { 1 } else { deaths + 1 };
        if deaths > RESTARTS {
            return Err(part.gave_up("ended unasked, again and again", status));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE * deaths) => {}
            () = stop.cancelled() => return Ok(()),
        }
        process = part.spawn(stdout)?;
    }
}

/// A part that is being kept running.
struct Kept {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
    report: mpsc::UnboundedSender<anyhow::Error>,
}

impl Kept {
    fn new() -> Self {
        let (report, failures) = mpsc::unbounded_channel();
        Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            failures,
            report,
        }
    }

    fn add(&mut self, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let report = self.report.clone();
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                // Nobody listens only when the run has ended.
                let _ = report.send(error);
            }
        });
    }

    async fn failure(&mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(error) => error,
            // This value holds a sender, so the channel never closes.
            None => std::future::pending().await,
        }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The coordinator's process.
pub(super) struct CoordinatorProcess {
    /// Its addresses.
    pub(super) ready: Ready,
    kept: Kept,
}

impl CoordinatorProcess {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// What it printed when it ended instead, for example that a port is in use.
    pub(super) async fn start(spec: &RunSpec, folder: &RunFolder) -> anyhow::Result<Self> {
        let heartbeat = spec.fleet.heartbeat;
        let part = |grpc: &str, http: &str| Part {
            name: "coordinator".to_owned(),
            arguments: [
                "coordinator",
                "--data",
                &folder.state().to_string_lossy(),
                "--grpc",
                grpc,
                "--http",
                http,
                "--heartbeat",
                &humantime::format_duration(heartbeat).to_string().replace(' ', ""),
                "--worker-timeout",
                &humantime::format_duration(heartbeat * MISSED_HEARTBEATS)
                    .to_string()
                    .replace(' ', ""),
            ]
            .map(str::to_owned)
            .to_vec(),
            threads: 1,
            log: folder.logs().join("coordinator.log"),
        };
        let first = part(&spec.coordinator.grpc.to_string(), &spec.coordinator.http.to_string());
        let mut process = first.spawn(|_| Stdio::piped())?;
        let stdout = process
            .child
            .stdout
            .take()
            .context("the coordinator's output is not piped")?;
        let mut line = String::new();
        let read = tokio::time::timeout(READY_WITHIN, BufReader::new(stdout).read_line(&mut line)).await;
        let ready: Ready = match (read, serde_json::from_str(&line)) {
            (Ok(Ok(_)), Ok(ready)) => ready,
            (Err(_), _) => {
                end(process).await;
                return Err(Fault::new(format!(
                    "the coordinator does not serve after {} s",
                    READY_WITHIN.as_secs()
                ))
                .with_hint(format!("its log is {}", first.log.display()))
                .into());
            }
            _ => {
                let status = process.child.wait().await.context("cannot watch the coordinator")?;
                return Err(first.gave_up("did not start", status));
            }
        };
        folder.note_coordinator(&ready)?;
        // Should it have to be started again, the workers must find it where it was.
        let bare = |address: &str| address.trim_start_matches("http://").to_owned();
        let again = part(&bare(&ready.grpc), &bare(&ready.http));
        let mut kept = Kept::new();
        kept.add(keep(again, process, kept.stop.clone(), Stdio::from));
        Ok(Self { ready, kept })
    }

    /// Waits until it has ended too often.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        self.kept.failure().await
    }

    /// Ends it.
    pub(super) async fn stop(&mut self) {
        self.kept.stop().await;
    }
}

/// The workers' processes.
pub(super) struct Fleet {
    kept: Kept,
}

impl Fleet {
    /// Starts all workers.
    pub(super) fn start(spec: &RunSpec, coordinator: &str, folder: &RunFolder, threads: usize) -> Self {
        let counts = [
            ("sampler", spec.fleet.samplers),
            ("judge", spec.fleet.judges),
            ("trainer", spec.fleet.trainers),
        ];
        // The run may have been begun in another folder; here is where its files are now.
        let paths_from = folder.spec_file().to_string_lossy().into_owned();
        let mut kept = Kept::new();
        for (role, count) in counts {
            for index in 0..count {
                let name = format!("{role}-{index}");
                let part = Part {
                    arguments: [role, "--connect", coordinator, "--paths-from", &paths_from]
                        .map(str::to_owned)
                        .to_vec(),
                    threads,
                    log: folder.logs().join(format!("{name}.log")),
                    name,
                };
                let stop = kept.stop.clone();
                kept.add(async move {
                    let process = part.spawn(Stdio::from)?;
                    keep(part, process, stop, Stdio::from).await
                });
            }
        }
        Self { kept }
    }

    /// Waits until a worker has ended too often.
    pub(super) async fn failure(&mut self) -> anyhow::Error {
        self.kept.failure().await
    }

    /// Lets the workers finish what they have leased, and ends them.
    pub(super) async fn stop(&mut self) {
        self.kept.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found_with_causes_and_hint() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        std::fs::write(&log, "error: old\nINFO fine\nerror: new\ncaused by: deep\nhint: dig\n").unwrap();
        assert_eq!(last_error(&log), Some(("new: deep".to_owned(), Some("dig".to_owned()))));
        std::fs::write(&log, "INFO fine\n").unwrap();
        assert_eq!(last_error(&log), None);
    }
}
