//! `gavel.v1.Blobs`: content-addressed bytes in chunks.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use gavel_core::ids::Digest;
use gavel_proto::v1;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::blobs::Blobs;
use crate::metrics;
use crate::transport::{PIECE_BYTES, Rooms};

pub(super) struct BlobService {
    blobs: Blobs,
    rooms: Rooms,
}

impl BlobService {
    pub(super) fn new(blobs: Blobs, rooms: Rooms) -> Self {
        Self { blobs, rooms }
    }
}

#[tonic::async_trait]
impl v1::blobs_server::Blobs for BlobService {
    type GetStream = BoxStream<'static, Result<v1::GetResponse, Status>>;

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Result<Response<v1::PutResponse>, Status> {
        let mut room = self.rooms.upload().await.map_err(status::busy)?;
        let mut chunks = request.into_inner();
        let quiet = || Status::deadline_exceeded("the upload has come to a halt");
        let first = room.next(chunks.message()).await.ok_or_else(quiet)?;
        let first = status::required(first?, "PutRequest")?;
        let name: Digest = first.sha256.parse().map_err(status::malformed)?;
        let mut writer = self.blobs.writer(name);
        let mut next = Some(first);
        while let Some(message) = next {
            let length = writer.size() + message.chunk.len() as u64;
            room.hold(length).await.map_err(status::busy)?;
            let written = writer.write(message.chunk.into()).await;
            written.map_err(|error| failed(&error))?;
            next = room.next(chunks.message()).await.ok_or_else(quiet)??;
        }
        let size = writer.finish().await.map_err(|error| failed(&error))?;
        metrics::blob_received(size);
        Ok(Response::new(v1::PutResponse {
            sha256: name.to_string(),
            size,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let digest: Digest = request.into_inner().sha256.parse().map_err(status::malformed)?;
        let pace = self.rooms.download().await.map_err(status::busy)?;
        let pieces = self.blobs.stream(&digest, PIECE_BYTES).await;
        let chunks = pieces.map_err(|error| failed(&error))?.map(|piece| {
            let bytes = piece.map_err(|error| failed(&error))?;
            metrics::blob_sent(bytes.len() as u64);
            Ok(v1::GetResponse { chunk: bytes.into() })
        });
        let mut response = Response::new(chunks.boxed());
        response.extensions_mut().insert(pace);
        Ok(response)
    }

    async fn missing(&self, request: Request<v1::MissingRequest>) -> Result<Response<v1::MissingResponse>, Status> {
        let mut missing = Vec::new();
        for sha256 in request.into_inner().sha256 {
            let digest: Digest = sha256.parse().map_err(status::malformed)?;
            if self
                .blobs
                .size(&digest)
                .await
                .map_err(|error| failed(&error))?
                .is_none()
            {
                missing.push(sha256);
            }
        }
        Ok(Response::new(v1::MissingResponse { sha256: missing }))
    }
}

/// Callers are told what failed; where, and in which words of the store, is for the log.
fn failed(error: &crate::blobs::BlobError) -> Status {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, "a blob call failed");
    status::of_blob(error)
}
