//! `gavel.v1.Blobs`: content-addressed bytes in chunks.

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use gavel_core::blob_store::{DIRECT_BYTES_MIN, direct_within};
use gavel_core::ids::Digest;
use gavel_core::work::Pass;
use gavel_proto::v1;
use gavel_proto::v1::location::At;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::status;
use crate::blobs::{BlobError, Blobs, Reach, Site};
use crate::metrics;
use crate::sharing::{PeerSite, Sharing, Turn};
use crate::transport::{PIECE_BYTES, Rooms};

/// What the answer's way takes beside what a caller gives its fetch.
const MARGIN: Duration = Duration::from_secs(10);

pub(super) struct BlobService {
    blobs: Blobs,
    /// The store's identity.
    store: String,
    sharing: Sharing,
    rooms: Rooms,
    shutdown: CancellationToken,
}

impl BlobService {
    pub(super) fn new(blobs: Blobs, store: Uuid, sharing: Sharing, rooms: Rooms, shutdown: CancellationToken) -> Self {
        Self {
            blobs,
            store: store.to_string(),
            sharing,
            rooms,
            shutdown,
        }
    }

    fn location(&self, site: Site, size: u64) -> v1::Location {
        let at = match site {
            Site::Address(address) => At::Address(address),
            Site::Folder => At::FolderOf(self.store.clone()),
        };
        v1::Location { size, at: Some(at) }
    }

    /// The caller's turn to fetch a large blob, with its size, where it reaches those who share it.
    async fn turn(&self, digest: &Digest, peers: v1::Peers) -> Result<Option<(Turn, u64)>, Status> {
        if !self.sharing.is_used() {
            return Ok(None);
        }
        let size = self.blobs.size(digest).await.map_err(|error| failed(&error))?;
        let Some(size) = size.filter(|size| *size >= DIRECT_BYTES_MIN) else {
            return Ok(None);
        };
        let own = peers.certificate.try_into().ok().map(Digest);
        let turn = self.sharing.turn(*digest, size, own);
        tokio::select! {
            turn = turn => Ok(turn.map(|turn| (turn, size))),
            () = self.shutdown.cancelled() => Err(Status::unavailable("the coordinator is shutting down")),
        }
    }

    /// Keeps the hand of whoever gives a blob taken until the caller ends the call, or has had the time that it may take.
    fn given(&self, turn: Turn, size: u64) -> impl Stream<Item = Result<v1::GetResponse, Status>> + Send + use<> {
        let shutdown = self.shutdown.clone();
        let given = async move {
            // The caller has as long from when it is told.
            let _ = timeout(direct_within(size) + MARGIN, shutdown.cancelled()).await;
            drop(turn);
        };
        stream::once(given).filter_map(|()| std::future::ready(None))
    }
}

/// How a caller reaches the store; one that does not say reaches it through the coordinator alone.
fn reach(told: Option<v1::Reach>) -> Reach {
    told.map_or_else(Reach::default, |told| Reach {
        addresses: told.addresses,
        folder: told.folder,
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
        let v1::GetRequest {
            sha256,
            reach: told,
            failed: not_given,
        } = request.into_inner();
        let digest: Digest = sha256.parse().map_err(status::malformed)?;
        if let Some((certificate, pass)) = not_given.and_then(read_failed) {
            self.sharing.failed(&digest, &certificate, &pass);
        }
        let peers = told.as_ref().and_then(|told| told.peers.clone());
        match self.blobs.locate(&digest, reach(told)).await {
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
        let turn = match peers {
            Some(peers) => self.turn(&digest, peers).await?,
            None => None,
        };
        let own = match turn {
            Some((turn, size)) => match turn.site() {
                Some(site) => {
                    metrics::blob_shared(size);
                    let answer = v1::GetResponse {
                        location: Some(peer_location(site, size)),
                        ..v1::GetResponse::default()
                    };
                    let given = self.given(turn, size);
                    return Ok(Response::new(stream::once(async { Ok(answer) }).chain(given).boxed()));
                }
                None => Some(turn),
            },
            None => None,
        };
        let pace = self.rooms.download().await.map_err(status::busy)?;
        let pieces = self.blobs.stream(&digest, PIECE_BYTES).await;
        let chunks = pieces.map_err(|error| failed(&error))?.map(|piece| {
            let bytes = piece.map_err(|error| failed(&error))?;
            metrics::blob_sent(bytes.len() as u64);
            Ok(v1::GetResponse {
                chunk: bytes.into(),
                location: None,
            })
        });
        // The coordinator's own hand is free again when the last piece is sent, or nobody takes it.
        let sent = stream::once(async move { drop(own) }).filter_map(|()| std::future::ready(None));
        let mut response = Response::new(chunks.chain(sent).boxed());
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

/// Where a worker gives a blob.
fn peer_location(site: PeerSite, size: u64) -> v1::Location {
    let peer = v1::Peer {
        address: site.shares.address,
        certificate: site.shares.certificate.0.into(),
        pass: site.pass.to_bytes().into(),
    };
    v1::Location {
        size,
        at: Some(At::Peer(peer)),
    }
}

/// Who did not give a blob, and the pass with which it was asked.
fn read_failed(failed: v1::Failed) -> Option<(Digest, Pass)> {
    let certificate = failed.certificate.try_into().ok().map(Digest)?;
    Some((certificate, Pass::read(&failed.pass)?))
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
