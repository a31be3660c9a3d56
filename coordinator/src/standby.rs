//! A coordinator that cannot serve yet: it waits for another one's end, or reads its ledger.
//!
//! It has its addresses already, so that a port in use is found at the start and not in the moment of need. HTTP says that the
//! process lives and that it is not ready, so that nobody who probes it starts it again in the middle of a long ledger; gRPC
//! answers every call with UNAVAILABLE, which sends a worker to its next address without a pause for a connection that nobody
//! accepts.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::http::{Guard, Problem, guard, metrics_text};
use crate::ledger::{Candidacy, Leadership, Ledger};
use crate::server::Listeners;
use crate::{grpc, metrics, transport};

/// How often a standby tries to lead.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// How long open answers may take to end when the coordinator begins to serve.
const GRACE: Duration = Duration::from_secs(1);
/// How long whoever asks waits for a ledger that is being read before they are told.
const MOMENT: Duration = Duration::from_secs(1);
/// What whoever asks is told before the ledger has been read.
const READS: &str = "starts; the ledger is being read";

/// Why this coordinator does not serve, in words.
type Reason = watch::Receiver<String>;

/// Answers on the coordinator's sockets until it serves.
pub(crate) struct Standby {
    reason: watch::Sender<String>,
    promoted: CancellationToken,
    servers: JoinSet<Result<(), Error>>,
}

/// Waits until this coordinator leads. What it answered with meanwhile, if it stood by, is returned beside the leadership.
///
/// # Errors
/// The first attempt fails, a socket cannot be used, or [`Error::EndedAsStandby`]. Once it stands by, a ledger that does not
/// answer is waited for.
pub(crate) async fn lead(
    ledger: &Arc<dyn Ledger>,
    listeners: &Listeners,
    guard: &Guard,
    shutdown: &CancellationToken,
) -> Result<(Leadership, Option<Standby>), Error> {
    let name = name(listeners);
    let leader = match ledger.lead(&name).await? {
        Candidacy::Leads(leadership) => {
            metrics::leads(true);
            return Ok((leadership, None));
        }
        Candidacy::StandsBy { leader } => leader,
    };
    metrics::leads(false);
    tracing::info!(leader, "stands by");
    let mut standby = Standby::start(Sockets::of(listeners)?, guard.clone(), stands_by(&leader));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::EndedAsStandby),
            Some(ended) = standby.servers.join_next() => ended??,
            () = tokio::time::sleep(TRY_EVERY) => {}
        }
        match ledger.lead(&name).await {
            Ok(Candidacy::Leads(leadership)) => {
                metrics::leads(true);
                tracing::info!("the leader is gone, this coordinator takes over");
                standby.reason.send_replace(READS.to_owned());
                return Ok((leadership, Some(standby)));
            }
            Ok(Candidacy::StandsBy { leader }) => {
                standby.reason.send_replace(stands_by(&leader));
            }
            Err(error) => {
                tracing::warn!(%error, "the ledger does not say who leads; tries again");
                let reason = format!("standby; the ledger does not say who leads: {error}");
                standby.reason.send_replace(reason);
            }
        }
    }
}

/// Answers on the coordinator's sockets while `work` is done, where that takes longer than a moment. What comes within the moment
/// waits, and is answered by the servers that come: a coordinator that starts sends nobody away.
///
/// # Errors
/// Those of `work`, or a socket cannot be used.
pub(crate) async fn answer_while<T>(
    work: impl Future<Output = Result<T, Error>>,
    standby: Option<Standby>,
    listeners: &Listeners,
    guard: &Guard,
) -> Result<T, Error> {
    let (sockets, guard) = (Sockets::of(listeners)?, guard.clone());
    let done = CancellationToken::new();
    let is_done = done.clone();
    // A task of its own: the work may keep its thread for long.
    let answers = tokio::spawn(async move {
        let standby = match standby {
            Some(standby) => standby,
            None => tokio::select! {
                () = is_done.cancelled() => return,
                () = tokio::time::sleep(MOMENT) => Standby::start(sockets, guard, READS.to_owned()),
            },
        };
        is_done.cancelled().await;
        standby.end().await;
    });
    let worked = work.await;
    done.cancel();
    if answers.await.is_err() {
        tracing::debug!("what answered until now has ended by itself");
    }
    worked
}

/// The coordinator's sockets once more.
struct Sockets {
    http: TcpListener,
    grpc: TcpListener,
}

impl Sockets {
    fn of(listeners: &Listeners) -> Result<Self, Error> {
        Ok(Self {
            http: second(&listeners.http, "HTTP")?,
            grpc: second(&listeners.grpc, "gRPC")?,
        })
    }
}

impl Standby {
    fn start(sockets: Sockets, guard: Guard, reason: String) -> Self {
        let reason = watch::Sender::new(reason);
        let promoted = CancellationToken::new();
        let mut servers = JoinSet::new();
        servers.spawn(serve_http(
            sockets.http,
            reason.subscribe(),
            guard.clone(),
            promoted.clone(),
        ));
        servers.spawn(grpc::turn_away(
            sockets.grpc,
            reason.subscribe(),
            guard.security,
            promoted.clone(),
        ));
        Self {
            reason,
            promoted,
            servers,
        }
    }

    /// Leaves the sockets to the servers that come now.
    async fn end(mut self) {
        self.promoted.cancel();
        let ended = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            self.servers.shutdown().await;
        }
    }
}

fn stands_by(leader: &str) -> String {
    format!("standby; leader is {leader}")
}

/// How people tell coordinators apart.
fn name(listeners: &Listeners) -> String {
    // Linux tells the machine's name in a file.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.map_or_else(|_| "an unnamed host".to_owned(), |name| name.trim().to_owned());
    let process = std::process::id();
    match listeners.grpc.local_addr() {
        Ok(address) => format!("{host} (process {process}, gRPC {address})"),
        Err(_) => format!("{host} (process {process})"),
    }
}

/// The same socket once more: what is not accepted here stays in the queue for the servers that come.
fn second(listener: &TcpListener, part: &'static str) -> Result<TcpListener, Error> {
    let address = listener.local_addr();
    let again = || -> std::io::Result<TcpListener> {
        use std::os::fd::AsFd as _;
        TcpListener::from_std(listener.as_fd().try_clone_to_owned()?.into())
    };
    again().map_err(|source| Error::Listen {
        part,
        address: address.unwrap_or_else(|_| ([0, 0, 0, 0], 0).into()),
        source,
    })
}

async fn serve_http(
    listener: TcpListener,
    reason: Reason,
    protection: Guard,
    promoted: CancellationToken,
) -> Result<(), Error> {
    let tls = protection.security.tls.clone();
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .fallback(async |State(reason): State<Reason>| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason.borrow().clone())
        })
        .layer(from_fn_with_state(protection, guard))
        .with_state(reason);
    transport::serve_http(listener, routes, tls, promoted).await
}

async fn readyz(State(reason): State<Reason>) -> Response {
    let text = format!("{}\n", *reason.borrow());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
