//! `gavel.v1.Blobs`: content-addressed bytes in chunks.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use gavel_core::ids::Digest;
use gavel_proto::{CHUNK_BYTES, v1};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::blobs::Blobs;
use crate::metrics;

pub(super) struct BlobService {
    blobs: Blobs,
}

impl BlobService {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self { blobs }
    }
}

#[tonic::async_trait]
impl v1::blobs_server::Blobs for BlobService {
    type GetStream = BoxStream<'static, Result<v1::GetResponse, Status>>;

    async fn put(&self, request: Request<Streaming<v1::PutRequest>>) -> Result<Response<v1::PutResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = status::required(chunks.message().await?, "PutRequest")?;
        let name: Digest = first.sha256.parse().map_err(status::malformed)?;
        let mut writer = self.blobs.writer(name);
        let mut next = Some(first);
        while let Some(message) = next {
            let written = writer.write(message.chunk.into()).await;
            written.map_err(|error| failed(&error))?;
            next = chunks.message().await?;
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
        let pieces = self.blobs.stream(&digest).await.map_err(|error| failed(&error))?;
        let chunks = pieces.flat_map(|piece| {
            let answers: Vec<Result<v1::GetResponse, Status>> = match piece {
                Ok(bytes) => {
                    metrics::blob_sent(bytes.len() as u64);
                    let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
                    let chunk = |start| bytes.slice(start..bytes.len().min(start + CHUNK_BYTES));
                    starts
                        .map(|start| {
                            Ok(v1::GetResponse {
                                chunk: chunk(start).into(),
                            })
                        })
                        .collect()
                }
                Err(error) => vec![Err(failed(&error))],
            };
            stream::iter(answers)
        });
        Ok(Response::new(chunks.boxed()))
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

fn failed(error: &crate::blobs::BlobError) -> Status {
    let status = status::of_blob(error);
    tracing::error!(message = status.message(), "a blob call failed");
    status
}
