//! Puts the parts together, and takes them apart in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access::{Security, renewal};
use crate::address::LedgerPlace;
use crate::binding;
use crate::blobs::Blobs;
use crate::driver::{Clock, Driver, DriverHandle};
use crate::error::Error;
use crate::http::{Guard, HostNames};
use crate::ledger::{self, Leadership, Ledger, SqliteLedger};
use crate::lock::FolderLock;
use crate::options::CoordinatorOptions;
use crate::sweeper::Sweeper;
use crate::transport::Rooms;
use crate::{grpc, http, metrics, standby};

/// The lock of a coordinator, in its data folder.
pub const LOCK_FILE: &str = "coordinator.lock";
/// How long open calls may take to end after the shutdown began.
const GRACE: Duration = Duration::from_secs(3);

/// The sockets that a coordinator listens on. They come from outside, so that a test or a supervisor can choose them.
#[derive(Debug)]
pub struct Listeners {
    /// For workers and clients.
    pub grpc: TcpListener,
    /// For people, probes and Prometheus.
    pub http: TcpListener,
}

impl Listeners {
    /// Listens on these addresses; port 0 takes any that is free.
    ///
    /// # Errors
    /// [`Error::AddressInUse`], [`Error::Listen`].
    pub async fn bind(grpc: SocketAddr, http: SocketAddr) -> Result<Self, Error> {
        Ok(Self {
            grpc: listen("gRPC", grpc).await?,
            http: listen("HTTP", http).await?,
        })
    }
}

async fn listen(part: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::AddressInUse { part, address },
        _ => Error::Listen { part, address, source },
    })
}

/// What a coordinator keeps its facts and bytes in.
#[derive(Clone)]
pub struct Stores {
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The blobs.
    pub blobs: Blobs,
}

impl Stores {
    /// Opens the ledger and the blobs that the options name; where they name none, `ledger.sqlite` and `blobs/` in the data
    /// folder.
    ///
    /// # Errors
    /// [`Error::Ledger`], [`Error::Blobs`]: they cannot be reached or written, the disk is full.
    pub async fn open(options: &CoordinatorOptions) -> Result<Self, Error> {
        let ledger: Arc<dyn Ledger> = match &options.ledger {
            Some(url) => ledger::open(url).await?,
            None => Arc::new(SqliteLedger::open(&options.data.join("ledger.sqlite")).await?),
        };
        let blobs = match &options.blobs {
            Some(url) => Blobs::open(url, options.blob_bytes_max).await?,
            // A folder beside the ledger is this coordinator's alone.
            None => Blobs::open_folder(&options.data.join("blobs"), options.blob_bytes_max)
                .await?
                .exclusive(),
        };
        let blobs = match options.blobs_bytes_max {
            Some(most) => blobs.with_quota(most).await?,
            None => blobs,
        };
        let blobs = match options.direct_blobs {
            true => blobs.with_addresses()?,
            false => blobs,
        };
        Ok(Self { ledger, blobs })
    }
}

/// Keeps other coordinators away from what only one may write: the data folder, and a SQLite file elsewhere. On PostgreSQL the
/// leadership does. Nothing is made where an address is none.
fn lock(options: &CoordinatorOptions) -> Result<Vec<FolderLock>, Error> {
    let ledger = options.ledger.as_ref().map(ledger::place).transpose()?;
    let blobs = options.blobs.as_ref().map(Blobs::place).transpose()?;
    let mut locks = Vec::new();
    if ledger.is_none() || blobs.is_none() {
        locks.push(FolderLock::take(&options.data.join(LOCK_FILE))?);
    }
    if let Some(LedgerPlace::Sqlite(file)) = ledger {
        let mut lock = file.as_os_str().to_owned();
        lock.push(".lock");
        locks.push(FolderLock::take(Path::new(&lock))?);
    }
    Ok(locks)
}

/// The coordinator.
#[derive(Debug)]
pub struct Coordinator;

impl Coordinator {
    /// Opens the stores, reads the ledger, and serves until `shutdown`. Returns as soon as it serves. While it reads it answers
    /// probes, and sends workers and clients away with UNAVAILABLE.
    ///
    /// On a ledger that several coordinators reach, only one serves. The others wait here in the same way until the leader is gone.
    ///
    /// # Errors
    /// Whatever keeps it from serving; [`Error::EndedAsStandby`] when `shutdown` came first.
    pub async fn start(
        options: CoordinatorOptions,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> Result<CoordinatorHandle, Error> {
        let locks = lock(&options)?;
        let stores = Stores::open(&options).await?;
        let mut handle = Self::start_with(options, stores, listeners, shutdown).await?;
        handle.locks = locks;
        Ok(handle)
    }

    /// As [`Coordinator::start`], with stores that are open already.
    ///
    /// # Errors
    /// Whatever keeps it from serving.
    pub async fn start_with(
        options: CoordinatorOptions,
        stores: Stores,
        listeners: Listeners,
        shutdown: CancellationToken,
    ) -> Result<CoordinatorHandle, Error> {
        // Before the first count, which would be lost without a recorder.
        let _ = metrics::prometheus();
        let address = |part, listener: &TcpListener| {
            let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
            listener.local_addr().map_err(|source| Error::Listen {
                part,
                address: unspecified,
                source,
            })
        };
        let grpc_address = address("gRPC", &listeners.grpc)?;
        let http_address = address("HTTP", &listeners.http)?;
        let security = Security::new(&options);
        security.check_exposure("gRPC", grpc_address)?;
        security.check_exposure("HTTP", http_address)?;
        let renewal = renewal::renew(security.clone(), options.renew, shutdown.clone());
        let renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
        let guard = Guard::new(HostNames::new(&options.host_names), security);
        stores.ledger.end_with(shutdown.clone());
        let (leadership, standby) = standby::lead(&stores.ledger, &listeners, &guard, &shutdown).await?;
        let heartbeat = options.heartbeat;
        let settings = http::Settings {
            guard: guard.clone(),
            results: options.results.clone(),
        };
        let recovered = async {
            let owner = binding::bind(&stores, options.adoption).await?;
            let store = owner.ledger;
            let (sweeper, chores) = Sweeper::new(stores.blobs.clone(), owner, options.trash);
            let ledger = Arc::clone(&stores.ledger);
            let (driver, handle) = Driver::recover(ledger, options, chores, Clock::system()).await?;
            Ok((store, sweeper, driver, handle))
        };
        let (store, sweeper, driver, handle) = standby::answer_while(recovered, standby, &listeners, &guard).await?;

        let stop_driver = CancellationToken::new();
        let driver = tokio::spawn(driver.run(shutdown.clone(), stop_driver.clone()));
        let mut servers = JoinSet::new();
        let rooms = Rooms::new();
        let Stores { ledger, blobs } = stores;
        servers.spawn(grpc::serve(
            listeners.grpc,
            grpc::Parts {
                driver: handle.clone(),
                blobs: blobs.clone(),
                store,
                ledger: Arc::clone(&ledger),
                heartbeat,
            },
            guard.security,
            rooms.clone(),
            shutdown.clone(),
        ));
        servers.spawn(http::serve(
            listeners.http,
            handle.clone(),
            blobs.clone(),
            ledger,
            rooms,
            settings,
            shutdown.clone(),
        ));
        let ended = tokio::spawn(supervise(
            driver,
            servers,
            sweeper,
            handle.clone(),
            leadership,
            shutdown,
            stop_driver,
        ));
        tracing::info!(grpc = %grpc_address, http = %http_address, "coordinator serves");
        Ok(CoordinatorHandle {
            grpc_address,
            http_address,
            driver: handle,
            blobs,
            ended,
            renewal,
            locks: Vec::new(),
        })
    }
}

/// A coordinator that serves.
#[derive(Debug)]
pub struct CoordinatorHandle {
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    driver: DriverHandle,
    blobs: Blobs,
    ended: tokio::task::JoinHandle<Result<(), Error>>,
    /// Reads certificates and tokens again, as long as this lives.
    #[expect(dead_code, reason = "held for its drop")]
    renewal: AbortOnDropHandle<()>,
    /// What keeps other coordinators of this machine away for as long.
    locks: Vec<FolderLock>,
}

impl CoordinatorHandle {
    /// Where workers and clients dial.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where the dashboard is.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The way to the runs.
    pub fn driver(&self) -> &DriverHandle {
        &self.driver
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Waits until the coordinator has ended, by its shutdown token or by a failure.
    ///
    /// # Errors
    /// [`Error::Ledger`] when the ledger failed or the leadership was lost; [`Error::Serve`] when a server ended.
    pub async fn join(self) -> Result<(), Error> {
        self.ended.await?
    }
}

/// Owns the tasks: when one fails, the others end too. The servers go first, so that the driver has answered every call. The
/// leadership is given up when nobody writes any more; when it is lost, the driver ends where it stands, since the next leader
/// may be writing already.
async fn supervise(
    mut driver: tokio::task::JoinHandle<Result<(), Error>>,
    mut servers: JoinSet<Result<(), Error>>,
    sweeper: Sweeper,
    handle: DriverHandle,
    mut leadership: Leadership,
    shutdown: CancellationToken,
    stop_driver: CancellationToken,
) -> Result<(), Error> {
    // It ends when the driver has, with everything done that the driver told it of.
    let sweeper = tokio::spawn(sweeper.run(handle));
    let first = tokio::select! {
        ended = &mut driver => {
            leadership.resign().await;
            shutdown.cancel();
            let servers = finish(&mut servers).await;
            return flatten(ended).and(servers).and(flatten(sweeper.await));
        }
        lost = leadership.lost() => {
            driver.abort();
            // Its end says nothing more: it was cut off.
            let _ = driver.await;
            shutdown.cancel();
            return finish(&mut servers).await.and(Err(lost.into()));
        }
        ended = servers.join_next() => ended.map_or(Ok(()), flatten),
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    let rest = finish(&mut servers).await;
    stop_driver.cancel();
    let driven = flatten(driver.await);
    let swept = flatten(sweeper.await);
    leadership.resign().await;
    first.and(driven).and(rest).and(swept)
}

/// Lets the servers answer their open calls, within bounds.
async fn finish(servers: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    let all = async {
        let mut result = Ok(());
        while let Some(ended) = servers.join_next().await {
            result = result.and(flatten(ended));
        }
        result
    };
    match tokio::time::timeout(GRACE, all).await {
        Ok(result) => result,
        Err(_) => {
            tracing::debug!("open calls were cut off");
            servers.shutdown().await;
            Ok(())
        }
    }
}

fn flatten(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    ended?
}
