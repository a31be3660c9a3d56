//! The gRPC services: requests become calls of the driver or of the blob store, and nothing else. Generated types stay here.

mod blobs;
mod fleet;
mod runs;
pub(crate) mod status;

use std::sync::Arc;
use std::time::Duration;

use gavel_proto::v1::blobs_server::BlobsServer;
use gavel_proto::v1::fleet_server::FleetServer;
use gavel_proto::v1::runs_server::RunsServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::blobs::Blobs;
use crate::driver::DriverHandle;
use crate::error::Error;
use crate::ledger::Ledger;

/// The largest message either way: a submitted run carries every prompt.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Serves until `shutdown`, then until open calls have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    driver: DriverHandle,
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    heartbeat: Duration,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetServer<fleet::Fleet>>().await;
    health.set_serving::<BlobsServer<blobs::BlobService>>().await;
    health.set_serving::<RunsServer<runs::Runs>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(gavel_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|source| Error::Reflection(source.into()))?;

    let fleet = FleetServer::new(fleet::Fleet::new(driver.clone(), ledger, heartbeat))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let runs = RunsServer::new(runs::Runs::new(driver, shutdown.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let blobs = BlobsServer::new(blobs::BlobService::new(blobs));

    let ends = shutdown.clone();
    let stop_advertising = async move {
        ends.cancelled().await;
        health.set_not_serving::<FleetServer<fleet::Fleet>>().await;
    };
    Server::builder()
        // A worker whose machine vanished is noticed in half a minute, not after TCP's many minutes.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        // Blobs travel beside small calls; a larger window keeps a long road full.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(fleet)
        .add_service(runs)
        .add_service(blobs)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop_advertising)
        .await
        .map_err(|source| Error::Serve {
            part: "gRPC",
            source: source.into(),
        })
}
