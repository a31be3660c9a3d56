//! The gRPC services: requests become calls of the driver or of the blob store, and nothing else. Generated types stay here.

mod blobs;
mod caller;
mod fleet;
mod history;
mod runs;
pub(crate) mod status;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use gavel_core::work::Assignment;
use gavel_proto::v1::blobs_server::BlobsServer;
use gavel_proto::v1::fleet_server::FleetServer;
use gavel_proto::v1::runs_server::RunsServer;
use gavel_proto::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use uuid::Uuid;

use crate::access::Security;
use crate::blobs::Blobs;
use crate::driver::DriverHandle;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::transport::{self, Rooms};

/// One message of an upload: a chunk, with its name. The other calls' limits are by call (`transport/calls.rs`).
const UPLOAD_MESSAGE_BYTES_MAX: usize = 2 * CHUNK_BYTES;

/// The largest assignment that is sent; the rest of the message is its lease.
pub(crate) const ASSIGNMENT_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);

/// How many bytes of a message an assignment takes.
pub(crate) fn assignment_bytes(assignment: Assignment) -> usize {
    gavel_proto::convert::encoded_len(assignment)
}

/// What the services work with.
pub(crate) struct Parts {
    pub(crate) driver: DriverHandle,
    pub(crate) blobs: Blobs,
    /// What the blob store knows itself by: its ledger's name.
    pub(crate) store: Uuid,
    /// For verdicts that are kept.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// How often workers send heartbeats.
    pub(crate) heartbeat: Duration,
}

/// Serves until `shutdown`, then until open calls have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    parts: Parts,
    security: Security,
    rooms: Rooms,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Parts {
        driver,
        blobs,
        store,
        ledger,
        heartbeat,
    } = parts;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetServer<fleet::Fleet>>().await;
    health.set_serving::<BlobsServer<blobs::BlobService>>().await;
    health.set_serving::<RunsServer<runs::Runs>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(gavel_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|source| Error::Reflection(source.into()))?;

    let fleet = FleetServer::new(fleet::Fleet::new(driver.clone(), Arc::clone(&ledger), heartbeat))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let sharing = driver.sharing().clone();
    let runs = RunsServer::new(runs::Runs::new(driver, ledger, rooms.clone(), shutdown.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let blobs = BlobsServer::new(blobs::BlobService::new(
        blobs,
        store,
        sharing,
        rooms.clone(),
        shutdown.clone(),
    ))
    .max_decoding_message_size(UPLOAD_MESSAGE_BYTES_MAX)
    .max_encoding_message_size(MESSAGE_BYTES_MAX);

    let ends = shutdown.clone();
    let stop_advertising = async move {
        ends.cancelled().await;
        health.set_not_serving::<FleetServer<fleet::Fleet>>().await;
    };
    let routes = Routes::new(health_service)
        .add_service(reflection)
        .add_service(fleet)
        .add_service(runs)
        .add_service(blobs);
    transport::serve_grpc(listener, routes, &security, &rooms, stop_advertising).await
}

/// Sends every caller away with UNAVAILABLE and these words, until `shutdown`.
pub(crate) async fn turn_away(
    listener: TcpListener,
    reason: watch::Receiver<String>,
    security: Security,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (_health, health_service) = tonic_health::server::health_reporter();
    let routes = Routes::new(health_service)
        .into_axum_router()
        .fallback(async move || Status::unavailable(reason.borrow().clone()).into_http::<axum::body::Body>());
    let rooms = Rooms::new();
    transport::serve_grpc(
        listener,
        Routes::from(routes),
        &security,
        &rooms,
        shutdown.cancelled_owned(),
    )
    .await
}
