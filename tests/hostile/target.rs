//! The coordinator that is attacked: the real binary as a process of its own, with few file descriptors.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use gavel_client::{ConnectOptions, Connection};
use gavel_core::run::Phase;
use gavel_loadtest::{Fleet, FleetOptions, SyntheticRun, synthetic_run};
use tempfile::TempDir;

/// What a coordinator may have used at most, in KiB.
const MEMORY_KIB: u64 = 512 << 10;
/// File descriptors that the coordinator may have: attackers run out of connections early, and so does a server that counts
/// badly.
pub(crate) const DESCRIPTORS: usize = 256;

/// A coordinator with a good run.
pub(crate) struct Target {
    process: Process,
    folder: TempDir,
    options: &'static [&'static str],
    pub(crate) good: SyntheticRun,
}

struct Process {
    child: Child,
    /// Closed, it tells the process to end.
    stdin: Option<ChildStdin>,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(folder: &TempDir, options: &[&str]) -> Self {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.path().join("log"))
            .expect("a log");
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_gavel"))
            .args([
                "coordinator",
                "--grpc",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--until-stdin-closes",
            ])
            .arg("--data")
            .arg(folder.path().join("data"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("a coordinator");
        let stdin = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let addresses: serde_json::Value = serde_json::from_str(&line).expect("its addresses");
        let address = |server: &str| {
            let text = addresses[server].as_str().and_then(|text| text.strip_prefix("http://"));
            text.and_then(|text| text.parse().ok()).expect("an address")
        };
        let (grpc, http) = (address("grpc"), address("http"));
        Self {
            child,
            stdin,
            grpc,
            http,
        }
    }

    /// The most memory that it has ever used, in KiB.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("its peak of memory")
    }
}

impl Target {
    /// Starts it, and submits the good run.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Target::start`], with more options.
    pub(crate) async fn start_with(options: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut good = synthetic_run(2, 4).expect("a valid run");
        // Each lie counts as an attempt.
        good.spec.limits.attempts = 100;
        let target = Self {
            process: Process::start(&folder, options),
            folder,
            options,
            good,
        };
        let submitted = target.connection().await.runs();
        let submitted = submitted
            .submit(&target.good.id(), &target.good.spec, &target.good.assets)
            .await;
        submitted.expect("the good run");
        target
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.process.grpc
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.process.http
    }

    pub(crate) async fn connection(&self) -> Connection {
        let options = ConnectOptions::new(&self.grpc().to_string()).expect("an address");
        Connection::open(&options).await.expect("a coordinator that answers")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What is the point of each test: it is alive and within its memory, finishes the good run with a fleet of its own, and
    /// starts again on its ledger.
    pub(crate) async fn has_survived(mut self) {
        self.answers().await;
        self.finish_the_good_run().await;
        let peak = self.process.peak_kib();
        assert!(peak < MEMORY_KIB, "it has used {} MiB", peak >> 10);
        drop(self.process.stdin.take());
        let ended = self.process.child.wait().expect("its end");
        assert!(ended.success(), "{ended}: {}", self.last_words());
        self.process = Process::start(&self.folder, self.options);
        let again = self.connection().await.runs().status(&self.good.id()).await;
        assert_eq!(again.expect("the good run").phase, Phase::Finished);
    }

    /// Waits until it says that it is ready. Attackers may hold every place for a moment.
    pub(crate) async fn answers(&self) {
        let asked = async {
            while !crate::web::get(self.http(), "/readyz")
                .await
                .starts_with("HTTP/1.1 200")
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(60), asked).await;
        assert!(answered.is_ok(), "not ready within a minute: {}", self.last_words());
    }

    async fn finish_the_good_run(&self) {
        let options = FleetOptions {
            coordinator: self.grpc().to_string(),
            workers: 3,
            connections: 1,
            work: Duration::ZERO,
        };
        let fleet = Fleet::start(&options, &self.good).await.expect("workers");
        let mut states = self
            .connection()
            .await
            .runs()
            .watch(&self.good.id())
            .await
            .expect("the good run");
        let mut last = None;
        while let Some(state) = states.next().await.expect("a state") {
            last = Some(state);
        }
        assert_eq!(last.expect("a state").phase, Phase::Finished, "{}", self.last_words());
        fleet.stop().await;
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}
