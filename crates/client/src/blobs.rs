//! Bytes by their hash.

use bytes::{Bytes, BytesMut};
use gavel_core::ids::Digest;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::{GetRequest, MissingRequest, PutRequest};
use gavel_proto::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
use tonic::Status;

use crate::connection::Connection;
use crate::error::CallError;
use crate::failover::Failover;

/// The coordinator's blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    connection: Connection,
}

impl Blobs {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    fn client(&self) -> BlobsClient<Failover> {
        BlobsClient::new(self.connection.transport())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Fetches a blob and checks its hash.
    ///
    /// # Errors
    /// NOT_FOUND where there is none, DATA_LOSS where the stored bytes have changed, ABORTED where they changed on their way.
    pub async fn get(&self, digest: Digest) -> Result<Bytes, CallError> {
        self.fetch(digest)
            .await
            .map_err(|status| self.connection.failed(&status))
    }

    async fn fetch(&self, digest: Digest) -> Result<Bytes, Status> {
        let request = GetRequest {
            sha256: digest.to_string(),
        };
        let mut stream = self.client().get(request).await?.into_inner();
        let mut bytes = BytesMut::new();
        while let Some(message) = stream.message().await? {
            bytes.extend_from_slice(&message.chunk);
        }
        let found = Digest::of(&bytes);
        if found != digest {
            // The coordinator checks what it reads, so these bytes changed on their way: worth another attempt.
            return Err(Status::aborted(format!("blob {digest} arrived as {found}")));
        }
        Ok(bytes.freeze())
    }

    /// Stores a blob under its hash. Storing it again is harmless.
    ///
    /// # Errors
    /// ABORTED where the bytes that arrive have another hash, INVALID_ARGUMENT where they are too many.
    pub async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), CallError> {
        let chunks = (0..bytes.len().div_ceil(CHUNK_BYTES).max(1)).map(move |index| {
            let start = index * CHUNK_BYTES;
            let end = bytes.len().min(start + CHUNK_BYTES);
            let name = (index == 0).then(|| digest.to_string());
            PutRequest {
                chunk: bytes.slice(start..end).into(),
                sha256: name.unwrap_or_default(),
            }
        });
        let stored = self.client().put(tokio_stream::iter(chunks)).await;
        let stored = stored.map_err(|status| self.connection.failed(&status))?.into_inner();
        if stored.sha256 != digest.to_string() {
            let message = format!("blob {digest} was stored as {}", stored.sha256);
            return Err(self.connection.failed(&Status::aborted(message)));
        }
        Ok(())
    }

    /// Says which of these are missing.
    ///
    /// # Errors
    /// Whatever keeps the coordinator from an answer.
    pub async fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CallError> {
        let request = MissingRequest {
            sha256: digests.iter().map(Digest::to_string).collect(),
        };
        let answer = self.client().missing(request).await;
        let answer = answer.map_err(|status| self.connection.failed(&status))?.into_inner();
        let missing = answer.sha256.iter().map(|text| text.parse::<Digest>());
        missing
            .collect::<Result<_, _>>()
            .map_err(|problem| self.connection.unreadable(problem))
    }
}
