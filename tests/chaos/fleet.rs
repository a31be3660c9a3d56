//! The real binary's parts as separate processes, each worker behind its own proxy.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gavel_client::{Code, ConnectOptions, Connection, Runs};
use gavel_core::ids::RunId;
use gavel_core::run::RunStatus;
use gavel_core::work::Role;

use super::clock::WallClock;
use super::process::{End, Part};
use super::proxy::Proxy;

/// How often conditions are looked at.
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// How long anything may take that is bound to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A coordinator that is stopped at this moment does not answer; then it is tried again.
const SUBMITTED_WITHIN: Duration = Duration::from_secs(10);
/// Ports below those that the system gives to outgoing connections: a coordinator that is away must find its port free.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// A coordinator that does not answer a look in this time is away.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// How a fleet is made up and watched.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// The run: the name of its configuration, and its own.
    pub(crate) run: &'static str,
    pub(crate) samplers: usize,
    pub(crate) judges: usize,
    pub(crate) trainers: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) lease: Duration,
}

/// The fleet. Its processes are killed when it is dropped.
pub(crate) struct Fleet {
    /// First the coordinator, then the workers.
    pub(crate) parts: Vec<Part>,
    /// The workers' roles, in the order of the parts.
    roles: Vec<Role>,
    /// The workers' ways to the coordinator, in the order of the parts.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) shape: Shape,
    pub(crate) state: PathBuf,
    /// The coordinator's, where it can be set.
    pub(crate) clock: Option<WallClock>,
    grpc: SocketAddr,
    runs: Runs,
    settings: Vec<String>,
    /// Starts of a part that had run before.
    pub(crate) restarts: u32,
}

/// A process that ended without the test's doing.
pub(crate) struct Ended {
    /// Its place among the parts.
    pub(crate) part: usize,
    /// How, and its last words.
    pub(crate) how: String,
}

impl Fleet {
    /// Starts all processes, and hands in the run with these settings. `state` is the coordinator's data folder.
    pub(crate) async fn start(shape: &Shape, folder: &Path, state: &Path, settings: &[String]) -> anyhow::Result<Self> {
        let (grpc, http) = (free_port()?, free_port()?);
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).context("cannot make the folder of logs")?;
        let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
        let coordinator: [&str; 11] = [
            "coordinator",
            "--data",
            &state.to_string_lossy(),
            "--grpc",
            &grpc.to_string(),
            "--http",
            &http.to_string(),
            "--heartbeat",
            &milliseconds(shape.heartbeat),
            "--worker-timeout",
            &milliseconds(shape.lease),
        ];
        let mut parts = vec![Part::new(
            "coordinator".to_owned(),
            coordinator.map(str::to_owned).to_vec(),
            logs.join("coordinator.log"),
        )];
        let clock = WallClock::new(folder)?;
        if let Some(clock) = &clock {
            parts[0].environment = clock.environment();
        }
        let (mut roles, mut proxies) = (Vec::new(), Vec::new());
        for (role, count) in [
            (Role::Sampler, shape.samplers),
            (Role::Judge, shape.judges),
            (Role::Trainer, shape.trainers),
        ] {
            for index in 0..count {
                let proxy = Proxy::start(grpc).await?;
                let name = format!("{role}-{index}");
                let arguments = vec![
                    role.to_string(),
                    "--connect".to_owned(),
                    format!("http://{}", proxy.address),
                ];
                let log = logs.join(format!("{name}.log"));
                parts.push(Part::new(name, arguments, log));
                roles.push(role);
                proxies.push(proxy);
            }
        }
        let options = ConnectOptions::new(&grpc.to_string()).context("the coordinator's address")?;
        let connection = Connection::lazy(&options.connect_within(ANSWERED_WITHIN));
        let mut fleet = Self {
            parts,
            roles,
            proxies,
            shape: shape.clone(),
            state: state.to_owned(),
            clock,
            grpc,
            runs: connection.runs(),
            settings: settings.to_vec(),
            restarts: 0,
        };
        for part in &mut fleet.parts {
            part.start()?;
        }
        fleet.serves().await?;
        fleet.submit().await?;
        Ok(fleet)
    }

    async fn serves(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(self.grpc).await.is_err() {
            if began.elapsed() > PATIENCE {
                bail!("the coordinator does not serve: {}", self.parts[0].last_words());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Hands in the run, also once more, which stores its labelled pictures anew.
    async fn submit(&self) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_gavel"));
        command
            .current_dir(super::root())
            .kill_on_drop(true)
            .args(["submit", &format!("configs/{}.toml", self.shape.run), "--connect"])
            .arg(format!("http://{}", self.grpc));
        let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
        let watched = [
            format!("fleet.lease={}", milliseconds(self.shape.lease)),
            format!("fleet.heartbeat={}", milliseconds(self.shape.heartbeat)),
        ];
        for setting in self.settings.iter().chain(&watched) {
            command.arg("--set").arg(setting);
        }
        let output = tokio::time::timeout(SUBMITTED_WITHIN, command.output())
            .await
            .context("gavel submit takes too long")?
            .context("cannot start gavel submit")?;
        anyhow::ensure!(
            output.status.success(),
            "gavel submit: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Does what a run asks for whose labelled pictures were lost, which nobody but the submitter has: submits and resumes it.
    pub(crate) async fn submit_again(&self) -> anyhow::Result<()> {
        self.submit().await?;
        let resumed = self.runs.within(SUBMITTED_WITHIN).resume(&self.shape.run_id()).await;
        resumed.context("the run is not resumed")
    }

    /// The run's state; `None` while no coordinator answers.
    pub(crate) async fn status(&self) -> anyhow::Result<Option<RunStatus>> {
        match self.runs.within(ANSWERED_WITHIN).status(&self.shape.run_id()).await {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.code() == Code::FailedPrecondition => Err(error).context("the answer is no status"),
            Err(_) => Ok(None),
        }
    }

    /// Waits until the run's state is as wanted.
    pub(crate) async fn status_when(
        &self,
        what: &str,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> anyhow::Result<RunStatus> {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < PATIENCE {
            last = self.status().await?;
            if let Some(status) = last.take_if(|status| wanted(status)) {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("{what}: not within {} s; last seen: {last:#?}", PATIENCE.as_secs())
    }

    /// The workers' places among the parts; all of them, or those of a role.
    pub(crate) fn workers(&self, role: Option<Role>) -> Vec<usize> {
        let places = self.roles.iter().enumerate();
        places
            .filter(|(_, of)| role.is_none_or(|role| role == **of))
            .map(|(index, _)| index + 1)
            .collect()
    }

    /// The way of the worker at this place to the coordinator.
    pub(crate) fn proxy(&self, part: usize) -> &Proxy {
        &self.proxies[part - 1]
    }

    /// Starts again whatever is down. Returns the processes that ended without the test's doing.
    pub(crate) fn revive(&mut self) -> anyhow::Result<Vec<Ended>> {
        let mut ended = Vec::new();
        for (place, part) in self.parts.iter_mut().enumerate() {
            if let Some(End::ByItself(status)) = part.ended()? {
                let how = format!("{} ended by itself ({status}): {}", part.name, part.last_words());
                ended.push(Ended { part: place, how });
            }
            if part.may_start() {
                part.start()?;
                self.restarts += 1;
            }
        }
        Ok(ended)
    }

    /// Waits until a process has ended, and returns its exit status in words when it is not 0.
    pub(crate) async fn wait_for_good_end(&mut self, part: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        let part = &mut self.parts[part];
        while began.elapsed() < PATIENCE {
            match part.ended()? {
                Some(End::ByItself(status)) if status.success() => return Ok(()),
                Some(End::ByItself(status)) => bail!("{} ended with {status}: {}", part.name, part.last_words()),
                Some(End::Killed) => bail!("{} was killed", part.name),
                None => tokio::time::sleep(POLL).await,
            }
        }
        bail!("{} does not end within {} s", part.name, PATIENCE.as_secs())
    }

    /// Ends everything in good order: first the workers, then the coordinator.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let workers = self.workers(None);
        for worker in &workers {
            self.parts[*worker].dismiss();
        }
        for worker in workers {
            self.wait_for_good_end(worker).await?;
        }
        self.parts[0].dismiss();
        self.wait_for_good_end(0).await
    }
}

impl Shape {
    /// The run's name, as the core knows it.
    pub(crate) fn run_id(&self) -> RunId {
        RunId(self.run.to_owned())
    }
}

/// A port that nobody listens on, another one at each call.
fn free_port() -> anyhow::Result<SocketAddr> {
    static LOOKED_AT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Where two test processes run at once they begin at different places.
    let begin = std::process::id().wrapping_mul(37);
    let free = (0..count).find_map(|_| {
        let offset = LOOKED_AT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (begin.wrapping_add(offset) % count) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).is_ok().then_some(address)
    });
    free.context("no port is free")
}
