//! Blobs as files: pictures, trajectories, adapters.

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use gavel_core::ids::Digest;

use super::ask::{Asked, Named, Nothing};
use super::{Parts, Problem};
use crate::transport::PIECE_BYTES;

/// What every PNG begins with.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// `GET /api/v1/blobs/{sha256}`.
pub(super) async fn blob(
    State(parts): State<Parts>,
    Named(sha256): Named,
    _: Asked<Nothing>,
) -> Result<Response, Problem> {
    let digest: Digest = sha256
        .parse()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))?;
    blob_response(&parts, &digest).await
}

/// A blob's bytes, piece by piece.
pub(super) async fn blob_response(parts: &Parts, digest: &Digest) -> Result<Response, Problem> {
    let pace = parts.rooms.download().await?;
    let mut pieces = parts.blobs.stream(digest, PIECE_BYTES).await?;
    let first = pieces.next().await.transpose()?.unwrap_or_default();
    let content_type = if first.starts_with(PNG_SIGNATURE) {
        "image/png"
    } else {
        "application/octet-stream"
    };
    let body = Body::from_stream(futures::stream::once(async { Ok(first) }).chain(pieces));
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // A blob's name is its content, so it never changes.
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable"),
    ];
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(pace);
    Ok(response)
}
