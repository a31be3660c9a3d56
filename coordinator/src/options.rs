//! What a coordinator is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use crate::access::Tokens;
use crate::address::Address;
use crate::binding::Adoption;
use crate::snapshots;
use crate::transport::ServerTls;

/// What a coordinator is told when it starts.
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// The folder of `ledger.sqlite` and `blobs/`, unless these are elsewhere.
    pub data: PathBuf,
    /// The ledger's address ([`crate::ledger::open`]); `None` is `ledger.sqlite` in the data folder.
    pub ledger: Option<Address>,
    /// The blob store's address ([`crate::blobs::Blobs::open`]); `None` is `blobs/` in the data folder.
    pub blobs: Option<Address>,
    /// How often workers send heartbeats.
    pub heartbeat: Duration,
    /// A worker that was silent for this long is removed, and its leases go to others. At least a few heartbeats.
    pub worker_timeout: Duration,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// The most that all blobs may take together, in bytes; `None` for as much as the store takes.
    pub blobs_bytes_max: Option<u64>,
    /// Whether workers are handed signed addresses, at which they read and write large blobs in a cloud store themselves.
    pub direct_blobs: bool,
    /// Whether every worker of before this start is gone, so that what they held need not wait for them.
    pub workers_gone: bool,
    /// How long blobs that nobody needs any more are kept before they are deleted.
    pub trash: Duration,
    /// Whether blobs that belong to another ledger, or to a newer state of this one, are taken over.
    pub adoption: Adoption,
    /// The folder in which people find the results of the runs, if somebody leaves them there.
    pub results: Option<PathBuf>,
    /// Names beside addresses and `localhost` under which the HTTP server answers.
    pub host_names: Vec<String>,
    /// The memory that the files and the steps in flight of all runs may take together, in bytes; a run beyond is refused.
    pub run_bytes_max: u64,
    /// Events of a run from one snapshot of its state to the next: a coordinator that starts replays about so many.
    pub snapshot_events: u64,
    /// Runs that have not ended, at a time; one more is refused.
    pub runs_max: usize,
    /// The encryption of both ports; `None` serves in the clear.
    pub tls: Option<ServerTls>,
    /// The tokens that callers show; `None` lets whoever reaches a port do all.
    pub tokens: Option<Tokens>,
    /// How often the files of certificates and tokens are read again.
    pub renew: Duration,
    /// Whether the metrics are shown without a token and without a certificate.
    pub open_metrics: bool,
    /// Whether HTTP answers without a token to whoever only looks. Changing something takes one all the same.
    pub open_dashboard: bool,
    /// Whether to serve beyond this machine without encryption, or without asking who calls.
    pub insecure: bool,
}

impl CoordinatorOptions {
    /// The usual settings: a heartbeat every 5 seconds, workers given up after 20, blobs of at most 16 GiB,
    /// a day in the trash, runs that take 128 MiB at most, in the clear and without tokens, which serves this machine alone.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            ledger: None,
            blobs: None,
            heartbeat: Duration::from_secs(5),
            worker_timeout: Duration::from_secs(20),
            workers_gone: false,
            blob_bytes_max: 16 << 30,
            blobs_bytes_max: None,
            direct_blobs: false,
            trash: Duration::from_secs(24 * 3600),
            adoption: Adoption::Refused,
            results: None,
            host_names: Vec::new(),
            run_bytes_max: 128 << 20,
            runs_max: 1_000,
            snapshot_events: snapshots::EVENTS,
            tls: None,
            tokens: None,
            renew: Duration::from_secs(60),
            open_metrics: false,
            open_dashboard: false,
            insecure: false,
        }
    }
}
