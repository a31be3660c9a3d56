//! One process of the fleet, and the signals that it gets.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The pause between two starts of a part, so that one that cannot start does not take the machine.
const BETWEEN_STARTS: Duration = Duration::from_millis(300);

/// A part of the fleet: its command line, and its process while it has one.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) log: PathBuf,
    /// Variables that it has besides this process's.
    pub(crate) environment: Vec<(String, String)>,
    process: Option<Process>,
    started: Option<Instant>,
}

struct Process {
    child: Child,
    /// Closed, it tells the process to end.
    stdin: Option<ChildStdin>,
    killed: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended.
pub(crate) enum End {
    /// The test killed it.
    Killed,
    /// It ended without the test's doing.
    ByItself(ExitStatus),
}

impl Part {
    pub(crate) fn new(name: String, arguments: Vec<String>, log: PathBuf) -> Self {
        Self {
            name,
            arguments,
            log,
            environment: Vec::new(),
            process: None,
            started: None,
        }
    }

    /// Starts the real binary as this part. It ends when its standard input closes, so also when this process dies.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("{}: cannot write the log", self.log.display()))?;
        let second = log.try_clone().context("cannot write the log twice")?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_gavel"))
            .current_dir(super::root())
            .args(&self.arguments)
            .arg("--until-stdin-closes")
            .env("RAYON_NUM_THREADS", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(second)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let stdin = child.stdin.take();
        self.process = Some(Process {
            child,
            stdin,
            killed: false,
        });
        self.started = Some(Instant::now());
        Ok(())
    }

    /// The process's id; `None` when there is none.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Remembers that the test kills this process, and returns its id; `None` when it has none or was killed before.
    pub(crate) fn doomed(&mut self) -> Option<u32> {
        let process = self.process.as_mut().filter(|process| !process.killed)?;
        process.killed = true;
        Some(process.child.id())
    }

    /// Says how the process ended, once.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<End>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let Some(status) = process.child.try_wait().context("cannot watch a process")? else {
            return Ok(None);
        };
        let killed = process.killed;
        self.process = None;
        Ok(Some(if killed { End::Killed } else { End::ByItself(status) }))
    }

    /// Whether it is down and may be started again.
    pub(crate) fn may_start(&self) -> bool {
        self.process.is_none() && self.started.is_none_or(|started| started.elapsed() >= BETWEEN_STARTS)
    }

    /// Closes its standard input: it is to end in good order.
    pub(crate) fn dismiss(&mut self) {
        if let Some(process) = &mut self.process {
            process.stdin = None;
        }
    }

    /// The end of its log, for people.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// Sends a signal to processes that have not been waited for.
pub(crate) fn signal(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids.iter().map(u32::to_string))
        .status()
        .context("cannot start `kill`")?;
    anyhow::ensure!(status.success(), "kill -{name} {pids:?}: {status}");
    Ok(())
}
