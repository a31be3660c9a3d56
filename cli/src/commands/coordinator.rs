//! `gavel coordinator`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use gavel_coordinator::{Address, Adoption, Coordinator, CoordinatorOptions, Error, Listeners, ServerTls, Tokens};
use gavel_core::spec::{FleetSpec, Problems, RunSpec};
use gavel_review::CoordinatorAddresses;

use super::connect::SECURITY;
use crate::diagnostic::Result;
use crate::output;
use crate::runtime::{ParentArguments, block_on, shutdown_token};

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Folder of the ledger and the blobs, unless --ledger and --blobs name other places.
    #[arg(long, value_name = "DIR", default_value = "gavel-data")]
    pub(crate) data: PathBuf,
    /// Ledger: postgres://USER@HOST/DATABASE, or a SQLite file [default: ledger.sqlite in --data]. With PostgreSQL, a second
    /// coordinator stands by until the first is gone.
    #[arg(long, value_name = "URL")]
    pub(crate) ledger: Option<Address>,
    /// Blobs: a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX [default: blobs in --data].
    #[arg(long, value_name = "URL")]
    pub(crate) blobs: Option<Address>,
    /// Address for workers and clients; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7440")]
    pub(crate) grpc: SocketAddr,
    /// Address for the dashboard, probes and metrics; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7441")]
    pub(crate) http: SocketAddr,
    /// How often workers send heartbeats.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) heartbeat: humantime::Duration,
    /// A worker that was silent for this long is given up.
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) worker_timeout: humantime::Duration,
    /// How long blobs that no run needs any more are kept before they are deleted.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub(crate) trash: humantime::Duration,
    /// Start although the blobs belong to another ledger, or to a newer state of this one: blobs that this ledger does not name
    /// are then deleted after --trash.
    #[arg(long)]
    pub(crate) adopt_blobs: bool,
    /// Every worker of before is gone: what they held is handed out at once.
    #[arg(long, hide = true)]
    pub(crate) workers_gone: bool,
    /// Folder in which `gavel run` leaves the results, for the dashboard to name at the end.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) results: Option<PathBuf>,
    /// A name, beside addresses and localhost, under which the dashboard may be asked for; several times for several names.
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Memory that all runs' files and steps in flight may take together, in MiB; a run beyond is refused.
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    pub(crate) run_memory: u64,
    /// Runs that may be going on at a time; one more is refused.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) runs_max: usize,
    /// What all blobs may take together, in GiB; beyond, uploads are refused until there is room, and workers wait [default: what the store
    /// takes].
    #[arg(long, value_name = "GIB")]
    pub(crate) blobs_max: Option<u64>,
    /// Hand workers signed addresses, good for five minutes, at which they read and write large blobs in a cloud store themselves
    /// (docs/storage.md, "Straight to the store").
    #[arg(long)]
    pub(crate) direct_blobs: bool,
    #[command(flatten)]
    pub(crate) security: SecurityArguments,
    #[command(flatten)]
    pub(crate) parent: ParentArguments,
}

/// Who may do what, and who may read along.
#[derive(Debug, Args)]
pub(crate) struct SecurityArguments {
    /// Certificate of both ports, with those between it and its authority, PEM; read again every minute.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, PEM.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authority of clients, PEM: whoever shows no certificate of it is refused, on the HTTP port all but probes.
    #[arg(long, help_heading = SECURITY, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// File of tokens, a line for each, as `gavel token new` writes it; read again every minute. Whoever shows none of them is refused.
    #[arg(long, help_heading = SECURITY, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Show /metrics to whoever asks, without a token or a certificate.
    #[arg(long, help_heading = SECURITY)]
    open_metrics: bool,
    /// Show runs, pictures and metrics over HTTP to whoever asks, without a token; to change something takes one.
    #[arg(long, help_heading = SECURITY)]
    open_dashboard: bool,
    /// Listen beyond this machine without encryption, or without tokens or certificates: whoever reaches a port may do all.
    #[arg(long, help_heading = SECURITY)]
    insecure: bool,
}

impl SecurityArguments {
    fn read(&self, options: &mut CoordinatorOptions) -> Result<()> {
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            options.tls = Some(ServerTls::read(certificate, key, self.tls_client_ca.as_deref())?);
        }
        options.tokens = self.tokens.as_deref().map(Tokens::read).transpose()?;
        options.open_metrics = self.open_metrics;
        options.open_dashboard = self.open_dashboard;
        options.insecure = self.insecure;
        Ok(())
    }
}

pub(super) fn coordinator(arguments: CoordinatorArguments) -> Result<()> {
    block_on(async {
        check_times(arguments.heartbeat.into(), arguments.worker_timeout.into())?;
        let shutdown = shutdown_token(arguments.parent)?;
        let mut options = CoordinatorOptions::new(arguments.data);
        arguments.security.read(&mut options)?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let listeners = Listeners::bind(arguments.grpc, arguments.http).await?;
        options.ledger = arguments.ledger;
        options.blobs = arguments.blobs;
        options.results = arguments.results;
        options.workers_gone = arguments.workers_gone;
        options.heartbeat = arguments.heartbeat.into();
        options.worker_timeout = arguments.worker_timeout.into();
        options.trash = arguments.trash.into();
        if arguments.adopt_blobs {
            options.adoption = Adoption::Allowed;
        }
        options.host_names = arguments.allow_host;
        options.runs_max = arguments.runs_max;
        options.blobs_bytes_max = arguments.blobs_max.map(|gib| gib.saturating_mul(1 << 30));
        options.direct_blobs = arguments.direct_blobs;
        options.run_bytes_max = arguments.run_memory.saturating_mul(1 << 20);
        let handle = match Coordinator::start(options, listeners, shutdown).await {
            Err(Error::EndedAsStandby) => return Ok(()),
            started => started?,
        };
        let addresses = CoordinatorAddresses {
            grpc: link(scheme, handle.grpc_address()),
            http: link(scheme, handle.http_address()),
        };
        output::tell(serde_json::to_string(&addresses)?);
        handle.join().await?;
        Ok(())
    })
}

/// Holds the times to what `[fleet]` of a configuration is held to.
fn check_times(heartbeat: Duration, worker_timeout: Duration) -> Result<(), Problems> {
    let spec = RunSpec {
        fleet: FleetSpec {
            heartbeat,
            lease: worker_timeout,
            ..FleetSpec::default()
        },
        ..RunSpec::default()
    };
    let mut problems = spec.check().err().unwrap_or_default();
    problems.0.retain(|problem| problem.key.starts_with("fleet."));
    for problem in &mut problems.0 {
        for (key, option) in [("fleet.heartbeat", "--heartbeat"), ("fleet.lease", "--worker-timeout")] {
            problem.key = problem.key.replace(key, option);
            problem.message = problem.message.replace(key, option);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// How somebody on this machine reaches a server that listens there. One that listens at every address has none of its own to
/// dial.
fn link(scheme: &str, listens: SocketAddr) -> String {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, listens.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_held_to_what_a_configuration_is_held_to() {
        let check = |heartbeat, timeout| {
            let checked = check_times(Duration::from_millis(heartbeat), Duration::from_millis(timeout));
            checked.map_err(|problems| problems.to_string())
        };
        assert_eq!(check(5000, 20_000), Ok(()));
        assert_eq!(check(0, 20_000), Err("--heartbeat: must be at least 10ms".to_owned()));
        let error = check(5000, 6000).unwrap_err();
        assert!(
            error.starts_with("--worker-timeout: must be at least twice --heartbeat"),
            "{error}"
        );
    }

    #[test]
    fn every_address_that_is_announced_is_one_to_dial() {
        let link = |listens: &str| link("http", listens.parse().unwrap());
        assert_eq!(link("0.0.0.0:7441"), "http://127.0.0.1:7441");
        assert_eq!(link("[::]:7441"), "http://[::1]:7441");
        assert_eq!(link("10.0.0.7:7441"), "http://10.0.0.7:7441");
    }
}
