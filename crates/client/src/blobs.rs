//! Bytes by their hash.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gavel_core::blob_store::DIRECT_BYTES_MIN;
use gavel_core::ids::Digest;
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::{
    AllotRequest, ConfirmRequest, Failed, GetRequest, GetResponse, MissingRequest, PutRequest, Reach,
};
use gavel_proto::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
use tonic::{Status, Streaming};

use crate::connection::Connection;
use crate::direct::{Arrived, Arriving, Direct, Keep, Place};
use crate::error::CallError;
use crate::failover::Failover;

/// The coordinator's blobs. Clones share what is known of the ways to the store.
#[derive(Debug, Clone)]
pub struct Blobs {
    connection: Connection,
    direct: Option<Arc<Direct>>,
}

impl Blobs {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            direct: None,
        }
    }

    /// Goes straight to the store with large blobs where that is possible: at addresses that the coordinator hands out, and in `folder` if that is
    /// the store's. Whatever goes wrong there, the blob goes through the coordinator, and the answer is the coordinator's.
    /// Large blobs are fetched from workers that share theirs, too.
    #[must_use]
    pub fn directly(self, folder: Option<&Path>) -> Self {
        self.directly_as(folder, None)
    }

    /// As [`Blobs::directly`], of a worker that shares what it fetches under this certificate.
    #[must_use]
    pub fn directly_as(mut self, folder: Option<&Path>, certificate: Option<Digest>) -> Self {
        let encrypted = self.connection.is_encrypted();
        self.direct = Some(Arc::new(Direct::new(folder, encrypted, certificate)));
        self
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
        let arrived = self.fetch(digest, Keep::All).await;
        arrived
            .map(|arrived| arrived.bytes)
            .map_err(|status| self.connection.failed(&status))
    }

    /// Fetches a blob as [`Blobs::get`] does, and keeps nothing of it but its size in bytes.
    ///
    /// # Errors
    /// As [`Blobs::get`].
    pub async fn check(&self, digest: Digest) -> Result<u64, CallError> {
        let arrived = self.fetch(digest, Keep::Nothing).await;
        arrived
            .map(|arrived| arrived.size)
            .map_err(|status| self.connection.failed(&status))
    }

    async fn fetch(&self, digest: Digest, keep: Keep) -> Result<Arrived, Status> {
        let (direct, reach) = self.ways();
        let mut stream = self.ask(digest, reach, None).await?;
        let mut first = stream.message().await?;
        if let (Some(direct), Some(location)) = (direct, first.as_mut().and_then(|first| first.location.take())) {
            let failed = Place::failed(&location);
            if let Some(place) = &Place::told(location)
                && let Some(arrived) = direct.read(place, digest, keep).await
            {
                return Ok(arrived);
            }
            // Another worker gave it as long as the call lasted.
            drop(stream);
            stream = self.ask(digest, None, failed).await?;
            first = stream.message().await?;
        }
        let mut arriving = Arriving::new(keep, 0);
        while let Some(message) = first {
            arriving.add(&message.chunk);
            first = stream.message().await?;
        }
        let arrived = arriving.finish();
        if arrived.found != digest {
            // The coordinator checks what it reads, so these bytes changed on their way: worth another attempt.
            return Err(Status::aborted(format!("blob {digest} arrived as {}", arrived.found)));
        }
        Ok(arrived)
    }

    async fn ask(
        &self,
        digest: Digest,
        reach: Option<Reach>,
        failed: Option<Failed>,
    ) -> Result<Streaming<GetResponse>, Status> {
        let request = GetRequest {
            sha256: digest.to_string(),
            reach,
            failed,
        };
        Ok(self.client().get(request).await?.into_inner())
    }

    /// The ways past the coordinator that are open now.
    fn ways(&self) -> (Option<&Direct>, Option<Reach>) {
        let direct = self.direct.as_deref();
        (direct, direct.and_then(Direct::reach))
    }

    /// Stores a blob under its hash. Storing it again is harmless.
    ///
    /// # Errors
    /// ABORTED where the bytes that arrive have another hash, INVALID_ARGUMENT where they are too many.
    pub async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), CallError> {
        if bytes.len() as u64 >= DIRECT_BYTES_MIN && self.put_directly(digest, &bytes).await {
            return Ok(());
        }
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

    /// Writes a blob straight to the store; whether it is there then, by the coordinator's word. Why not is told by the way or, where the
    /// coordinator does not answer, by the upload that follows.
    async fn put_directly(&self, digest: Digest, bytes: &Bytes) -> bool {
        let (Some(direct), Some(reach)) = self.ways() else {
            return false;
        };
        let size = bytes.len() as u64;
        let request = AllotRequest {
            sha256: digest.to_string(),
            size,
            reach: Some(reach),
        };
        let Ok(allotted) = self.client().allot(request).await else {
            return false;
        };
        let Some(place) = allotted.into_inner().location.and_then(Place::told) else {
            return false;
        };
        let confirm = async {
            let request = ConfirmRequest {
                sha256: digest.to_string(),
                size,
            };
            let answer = self.client().confirm(request).await;
            answer.map(|answer| answer.into_inner().stored)
        };
        direct.write(&place, digest, bytes, confirm).await
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
