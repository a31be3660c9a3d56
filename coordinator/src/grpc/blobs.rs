//! `gavel.v1.Blobs`: content-addressed bytes in chunks.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use gavel_core::ids::Digest;
use gavel_proto::v1;
use gavel_proto::v1::location::At;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::status;
use crate::blobs::{BlobError, Blobs, Reach, Site};
use crate::metrics;
use crate::transport::{PIECE_BYTES, Rooms};

pub(super) struct BlobService {
    blobs: Blobs,
    /// The store's identity.
    store: String,
    rooms: Rooms,
}

impl BlobService {
    pub(super) fn new(blobs: Blobs, store: Uuid, rooms: Rooms) -> Self {
        Self {
            blobs,
            store: store.to_string(),
            rooms,
        }
    }

    fn location(&self, site: Site, size: u64) -> v1::Location {
        let at = match site {
            Site::Address(address) => At::Address(address),
            Site::Folder => At::FolderOf(self.store.clone()),
        };
        v1::Location { size, at: Some(at) }
    }
}

/// How a caller reaches the store; one that does not say reaches it through the coordinator alone.
fn reach(told: Option<v1::Reach>) -> Reach {
    told.map_or_else(Reach::default, |v1::Reach { addresses, folder }| Reach {
        addresses,
        folder,
    })
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
        let request = request.into_inner();
        let digest: Digest = request.sha256.parse().map_err(status::malformed)?;
        let pace = self.rooms.download().await.map_err(status::busy)?;
        match self.blobs.locate(&digest, reach(request.reach)).await {
            Ok(Some((site, size))) => {
                metrics::blob_directed("read", size);
                let answer = v1::GetResponse {
                    location: Some(self.location(site, size)),
                    ..v1::GetResponse::default()
                };
                return Ok(Response::new(stream::once(async { Ok(answer) }).boxed()));
            }
            Ok(None) => {}
            Err(error) => not_directed(&error),
        }
        let pieces = self.blobs.stream(&digest, PIECE_BYTES).await;
        let chunks = pieces.map_err(|error| failed(&error))?.map(|piece| {
            let bytes = piece.map_err(|error| failed(&error))?;
            metrics::blob_sent(bytes.len() as u64);
            Ok(v1::GetResponse {
                chunk: bytes.into(),
                location: None,
            })
        });
        let mut response = Response::new(chunks.boxed());
        response.extensions_mut().insert(pace);
        Ok(response)
    }

    async fn allot(&self, request: Request<v1::AllotRequest>) -> Result<Response<v1::AllotResponse>, Status> {
        let v1::AllotRequest {
            sha256,
            size,
            reach: told,
        } = request.into_inner();
        let digest: Digest = sha256.parse().map_err(status::malformed)?;
        let site = self.blobs.allot(&digest, size, reach(told)).await;
        let site = site.unwrap_or_else(|error| {
            not_directed(&error);
            None
        });
        let location = site.map(|site| self.location(site, size));
        Ok(Response::new(v1::AllotResponse { location }))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmResponse>, Status> {
        let v1::ConfirmRequest { sha256, size } = request.into_inner();
        let digest: Digest = sha256.parse().map_err(status::malformed)?;
        let stored = self.blobs.confirm(&digest, size).await;
        let stored = stored.map_err(|error| failed(&error))?;
        if stored {
            metrics::blob_directed("written", size);
        }
        Ok(Response::new(v1::ConfirmResponse { stored }))
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

/// The blob takes the way through the coordinator, which says what else is wrong with it.
fn not_directed(error: &BlobError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, "nobody is sent to the blob store");
}

/// Callers are told what failed; where, and in which words of the store, is for the log.
fn failed(error: &BlobError) -> Status {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, "a blob call failed");
    status::of_blob(error)
}
