//! A fleet of simulated workers.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use gavel_client::{ConnectOptions, Connection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::ready::ReadySince;
use crate::synthetic::SyntheticRun;
use crate::tally::{Counts, Tally};
use crate::worker::{Shared, Worker};

/// Connections and registrations that are under way at once: below the queue of a listening socket (128 and more).
const STARTING: usize = 100;
/// How long a connection may take to come about: thousands at once take longer than one does.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// What a fleet is told when it starts.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// Where the coordinator listens, http://HOST:PORT.
    pub coordinator: String,
    /// How many workers; samplers, judges and trainers in equal parts.
    pub workers: u32,
    /// How many HTTP/2 connections they share. More than there are workers are not opened.
    pub connections: u32,
    /// The mean time that a worker works on a unit; 0 hands each unit in at once.
    pub work: Duration,
}

/// Simulated workers that are registered and at work.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    stop: CancellationToken,
}

impl Fleet {
    /// Connects and registers every worker. They ask for work from the moment they are registered.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`]. Nothing is left running then.
    pub async fn start(options: &FleetOptions, run: &SyntheticRun) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            run: run.clone(),
            work: options.work,
            counts: Counts::new(),
            ready: ReadySince::default(),
        });
        let connections = options.connections.clamp(1, options.workers.max(1));
        let coordinator = ConnectOptions::new(&options.coordinator)?.connect_within(CONNECT_WITHIN);
        let opened: Vec<Connection> = stream::iter(0..connections)
            .map(|_| Connection::open(&coordinator))
            .buffer_unordered(STARTING)
            .try_collect()
            .await?;
        let stop = CancellationToken::new();
        let mut fleet = Self {
            shared,
            workers: JoinSet::new(),
            stop,
        };
        let shared = Arc::clone(&fleet.shared);
        let mut registered = stream::iter(0..options.workers)
            .map(|number| {
                let connection = &opened[(number % connections) as usize];
                Worker::register(number, connection, Arc::clone(&shared))
            })
            .buffer_unordered(STARTING);
        while let Some(worker) = registered.try_next().await? {
            fleet.workers.spawn(worker.run(fleet.stop.clone()));
        }
        Ok(fleet)
    }

    /// What was counted since the last call or the start.
    pub fn take_tally(&self) -> Tally {
        self.shared.counts.take()
    }

    /// Stops every worker where it stands, without a farewell, and returns what was counted since the tally was last taken.
    pub async fn stop(mut self) -> Tally {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
        self.take_tally()
    }
}
