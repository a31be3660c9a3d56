//! Somebody who speaks the protocol and keeps to none of its rules.

use std::net::SocketAddr;

use gavel_core::work::{Role, WorkerSecret};
use gavel_proto::SECRET_METADATA;
pub(crate) use gavel_proto::v1;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::v1::runs_client::RunsClient;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

/// A connection of its own.
#[derive(Clone)]
pub(crate) struct Stranger(Channel);

impl Stranger {
    pub(crate) fn new(grpc: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).expect("an address");
        Self(endpoint.connect_lazy())
    }

    pub(crate) fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.0.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.0.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn blobs(&self) -> BlobsClient<Channel> {
        BlobsClient::new(self.0.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.0.clone()
    }
}

/// A judge that writes its messages itself.
pub(crate) struct RawJudge(WorkerSecret);

impl RawJudge {
    pub(crate) fn new() -> Self {
        Self(WorkerSecret::new([1; WorkerSecret::BYTES]))
    }

    pub(crate) fn name(&self) -> String {
        self.0.name(Role::Judge).0
    }

    /// The message as this worker sends it.
    pub(crate) fn sends<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let secret = MetadataValue::from_bytes(self.0.bytes());
        request.metadata_mut().insert_bin(SECRET_METADATA, secret);
        request
    }
}

/// How a worker introduces itself that may stay.
pub(crate) fn introduction(role: v1::Role) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version: gavel_proto::PROTOCOL_VERSION,
        role: role.into(),
        host: "elsewhere".into(),
        pid: 1,
        device: "cpu".into(),
        version: "0".into(),
        shares: None,
    }
}
