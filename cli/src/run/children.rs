//! The processes of a local fleet: started, watched, started again within bounds, ended in good order.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gavel_core::spec::RunSpec;
use gavel_review::{CoordinatorAddresses, RunFolder};
use gavel_telemetry::log::{self, Format};
use gavel_worker::Allowed;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::RunAccess;
use crate::commands::LOG_FORMAT;
use crate::commands::worker::as_arguments;
use crate::diagnostic::{Context as _, Diagnostic, ERROR_FORMAT, Result, told_in};
use crate::placement::{Placed, placed};

/// How often a process may end unasked before the run gives up.
const RESTARTS: u32 = 5;
/// A process that lived this long starts with a clean record.
const LONG_LIFE: Duration = Duration::from_secs(300);
/// The pause before the n-th restart is n times this.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a process may take to end in good order: a worker drains for up to 10 seconds, and lets go of what it had within 6.
const GRACE: Duration = Duration::from_secs(20);
/// How long a coordinator may take until it serves: it reads its ledger first, some 100,000 events a second.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// How long a run's coordinator keeps blobs that the run does not need any more. Ledger and blobs lie in one folder, which nobody
/// mounts apart, and a run on one machine must not fill its disk.
const TRASH: &str = "1m";
/// Heartbeats that a worker may miss before it is given up.
const MISSED_HEARTBEATS: u32 = 4;

/// A process with its standard input, which is held apart because waiting for a process would close it.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Where its own lines begin in its log, in bytes.
    log_start: u64,
}

/// The command line of a process, and where its log goes.
#[derive(Debug, Clone)]
struct ProcessCommand {
    name: String,
    arguments: Vec<String>,
    threads: usize,
    log: PathBuf,
}

impl ProcessCommand {
    /// Starts this program again with these arguments. It ends when its standard input closes, so also when this process dies.
    fn spawn(&self, stdout: impl FnOnce(File) -> Stdio) -> Result<Process> {
        let unwritable = || format!("{}: cannot write the log", self.log.display());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(unwritable)?;
        let log_start = log.metadata().with_context(unwritable)?.len();
        let second = log.try_clone().with_context(unwritable)?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let (variable, format) = ERROR_FORMAT;
        let log_format = match log::format() {
            Format::Text => "text",
            Format::Json => "json",
        };
        let mut child = Command::new(program)
            .args(&self.arguments)
            .arg("--until-stdin-closes")
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            .env(variable, format)
            .env(LOG_FORMAT, log_format)
            .stdin(Stdio::piped())
            .stdout(stdout(second))
            .stderr(log)
            // Ctrl-C in the terminal reaches this process alone, which then ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let stdin = child.stdin.take();
        Ok(Process {
            child,
            stdin,
            log_start,
        })
    }

    /// Why a process ended that should not have: what it said itself, and where its log is.
    fn ended(&self, what: &str, status: ExitStatus, log_start: u64) -> Diagnostic {
        let outer = Diagnostic::new(format!("the {} {what} ({status})", self.name));
        let ended = match self.told_since(log_start) {
            Some(told) => told.caused(outer),
            None => outer,
        };
        let log = format!("its log is {}", self.log.display());
        let hint = match &ended.hint {
            Some(hint) => format!("{hint}; {log}"),
            None => log,
        };
        ended.with_hint(hint)
    }

    /// The error that a process told in what it added to its log.
    fn told_since(&self, log_start: u64) -> Option<Diagnostic> {
        let bytes = std::fs::read(&self.log).ok()?;
        told_in(&String::from_utf8_lossy(bytes.get(log_start as usize..)?))
    }
}

/// Ends a process by closing its standard input; one that does not end in time is killed.
async fn end(mut process: Process) {
    drop(process.stdin.take());
    if tokio::time::timeout(GRACE, process.child.wait()).await.is_err() {
        tracing::warn!("a process did not end in time and is killed");
        let _ = process.child.kill().await;
    }
}

/// Keeps a process running until `stop`. Returns early only when it ended too often.
async fn supervise(
    command: ProcessCommand,
    mut process: Process,
    stop: CancellationToken,
    stdout: fn(File) -> Stdio,
) -> Result<()> {
    let mut deaths = 0;
    loop {
        let started = Instant::now();
        let status = tokio::select! {
            status = process.child.wait() => status.with_context(|| format!("cannot watch {}", command.name))?,
            () = stop.cancelled() => {
                end(process).await;
                return Ok(());
            }
        };
        deaths = if started.elapsed() >= LONG_LIFE { 1 } else { deaths + 1 };
        if deaths > RESTARTS {
            return Err(command.ended("ended unasked, again and again", status, process.log_start));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE * deaths) => {}
            () = stop.cancelled() => return Ok(()),
        }
        process = command.spawn(stdout)?;
    }
}

/// Keeps processes running, and hears of those that ended too often.
struct Supervisor {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    failures: mpsc::UnboundedReceiver<Diagnostic>,
    report: mpsc::UnboundedSender<Diagnostic>,
}

impl Supervisor {
    fn new() -> Self {
        let (report, failures) = mpsc::unbounded_channel();
        Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            failures,
            report,
        }
    }

    fn add(&mut self, work: impl Future<Output = Result<()>> + Send + 'static) {
        let report = self.report.clone();
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                // Nobody listens only when the run has ended.
                let _ = report.send(error);
            }
        });
    }

    async fn failure(&mut self) -> Diagnostic {
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

/// The address to listen at once more: as it was configured, at the port that was announced.
fn settled(configured: SocketAddr, announced: &str) -> SocketAddr {
    let port = announced.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    SocketAddr::new(configured.ip(), port.unwrap_or(configured.port()))
}

/// The coordinator's process.
pub(super) struct CoordinatorProcess {
    /// Its addresses.
    pub(super) addresses: CoordinatorAddresses,
    supervisor: Supervisor,
}

impl CoordinatorProcess {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// What it printed when it ended instead, for example that a port is in use.
    pub(super) async fn start(spec: &RunSpec, folder: &RunFolder, access: &RunAccess) -> Result<Self> {
        let heartbeat = spec.fleet.heartbeat;
        let command = |grpc: &str, http: &str| ProcessCommand {
            name: "coordinator".to_owned(),
            arguments: [
                "coordinator",
                "--data",
                &folder.state().to_string_lossy(),
                "--results",
                &folder.path().to_string_lossy(),
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
                "--trash",
                TRASH,
            ]
            .into_iter()
            .map(str::to_owned)
            .chain(access.of_the_coordinator(spec.coordinator.http.ip()))
            .collect(),
            threads: 1,
            log: folder.logs().join("coordinator.log"),
        };
        let mut first = command(&spec.coordinator.grpc.to_string(), &spec.coordinator.http.to_string());
        // The workers of a run that was killed have ended with it, unless others reach its coordinator.
        if spec.coordinator.grpc.ip().is_loopback() {
            first.arguments.push("--workers-gone".to_owned());
        }
        let mut process = first.spawn(|_| Stdio::piped())?;
        let log_start = process.log_start;
        let stdout = process
            .child
            .stdout
            .take()
            .context("the coordinator's output is not piped")?;
        let mut line = String::new();
        let read = tokio::time::timeout(READY_WITHIN, BufReader::new(stdout).read_line(&mut line)).await;
        let addresses: CoordinatorAddresses = match (read, serde_json::from_str(&line)) {
            (Ok(Ok(_)), Ok(addresses)) => addresses,
            (Err(_), _) => {
                end(process).await;
                return Err(Diagnostic::new(format!(
                    "the coordinator does not serve after {} s",
                    READY_WITHIN.as_secs()
                ))
                .with_hint(format!("its log is {}", first.log.display())));
            }
            _ => {
                let status = process.child.wait().await.context("cannot watch the coordinator")?;
                return Err(first.ended("did not start", status, log_start));
            }
        };
        folder.note_coordinator(&addresses)?;
        // Should it have to be started again, the workers must find it where it was.
        let again = command(
            &settled(spec.coordinator.grpc, &addresses.grpc).to_string(),
            &settled(spec.coordinator.http, &addresses.http).to_string(),
        );
        let mut supervisor = Supervisor::new();
        supervisor.add(supervise(again, process, supervisor.stop.clone(), Stdio::from));
        Ok(Self { addresses, supervisor })
    }

    /// Waits until it has ended too often.
    pub(super) async fn failure(&mut self) -> Diagnostic {
        self.supervisor.failure().await
    }

    /// Ends it.
    pub(super) async fn stop(&mut self) {
        self.supervisor.stop().await;
    }
}

/// The workers' processes.
pub(super) struct Fleet {
    supervisor: Supervisor,
}

impl Fleet {
    /// Starts all workers.
    pub(super) fn start(
        spec: &RunSpec,
        coordinator: &str,
        folder: &RunFolder,
        access: &RunAccess,
        threads: usize,
    ) -> Self {
        // The run may have been begun in another folder; here is where its files are now.
        let paths_from = folder.spec_file().to_string_lossy().into_owned();
        let mut supervisor = Supervisor::new();
        for Placed {
            role,
            with_sampler,
            index,
            gpu,
        } in placed(spec)
        {
            let name = format!("{role}-{index}");
            let mut arguments = [role.name(), "--connect", coordinator, "--paths-from", &paths_from]
                .map(str::to_owned)
                .to_vec();
            arguments.extend(with_sampler.then(|| "--with-sampler".to_owned()));
            // All on one machine: large blobs need not pass through the coordinator.
            arguments.push(format!("--blob-folder={}", folder.state().join("blobs").display()));
            arguments.extend(gpu.map(|gpu| format!("--gpu={gpu}")));
            // The run is its user's own, and others that reach this coordinator get no more than it names.
            arguments.extend(as_arguments(&Allowed::by(spec, role), role));
            arguments.extend(access.of_a_worker());
            let command = ProcessCommand {
                arguments,
                threads,
                log: folder.logs().join(format!("{name}.log")),
                name,
            };
            let stop = supervisor.stop.clone();
            supervisor.add(async move {
                let process = command.spawn(Stdio::from)?;
                supervise(command, process, stop, Stdio::from).await
            });
        }
        Self { supervisor }
    }

    /// Waits until a worker has ended too often.
    pub(super) async fn failure(&mut self) -> Diagnostic {
        self.supervisor.failure().await
    }

    /// Lets the workers finish what they have leased, and ends them.
    pub(super) async fn stop(&mut self) {
        self.supervisor.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_listens_again_where_it_was_configured_at_the_port_that_it_had() {
        let settled = |configured: &str, announced| settled(configured.parse().unwrap(), announced).to_string();
        assert_eq!(settled("127.0.0.1:0", "http://127.0.0.1:4711"), "127.0.0.1:4711");
        assert_eq!(settled("0.0.0.0:0", "http://127.0.0.1:4711"), "0.0.0.0:4711");
        assert_eq!(settled("[::]:7440", "http://[::1]:7440"), "[::]:7440");
    }

    #[test]
    fn a_process_is_quoted_from_its_own_lines_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let command = ProcessCommand {
            name: "judge-0".to_owned(),
            arguments: Vec::new(),
            threads: 1,
            log: folder.path().join("judge-0.log"),
        };
        let line = |error: &str| serde_json::to_string(&Diagnostic::new(error).with_hint("dig")).unwrap();
        let before = format!("{}\n", line("old"));
        let ended = |log: &str| {
            std::fs::write(&command.log, format!("{before}{log}")).unwrap();
            command.ended("ended", ExitStatus::default(), before.len() as u64)
        };
        let log = format!("its log is {}", command.log.display());

        let silent = ended("INFO fine\n");
        assert_eq!(
            silent,
            Diagnostic::new("the judge-0 ended (exit status: 0)").with_hint(&log)
        );
        let told = ended(&format!("error: new\n{}\n", line("new")));
        assert_eq!(told.causes, ["new"]);
        assert_eq!(told.hint, Some(format!("dig; {log}")));
    }
}
