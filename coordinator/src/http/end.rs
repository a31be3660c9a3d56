//! The coordinator's end, for pages that are open then: asked for early, answered late.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Problem;
use crate::driver::DriverHandle;

#[derive(Clone)]
struct Ending {
    driver: DriverHandle,
    results: Option<PathBuf>,
    shutdown: CancellationToken,
}

/// The page that answers when the coordinator is about to end, with the last state of its runs and the folder of their results.
pub(super) fn routes(driver: DriverHandle, results: Option<PathBuf>, shutdown: CancellationToken) -> Router {
    let ending = Ending {
        driver,
        results,
        shutdown,
    };
    Router::new().route("/api/v1/end", get(end)).with_state(ending)
}

async fn end(State(ending): State<Ending>) -> Result<Response, Problem> {
    ending.shutdown.cancelled().await;
    let runs = ending.driver.statuses().await?;
    Ok(Json(json!({ "runs": runs, "results": ending.results })).into_response())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::pin::pin;

    use super::*;
    use crate::{Coordinator, CoordinatorOptions, Listeners};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_is_told_when_it_comes_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listeners = Listeners::bind(any, any).await.unwrap();
        let options = CoordinatorOptions::new(folder.path());
        let coordinator = Coordinator::start(options, listeners, CancellationToken::new())
            .await
            .unwrap();
        let shutdown = CancellationToken::new();
        let ending = Ending {
            driver: coordinator.driver().clone(),
            results: Some("runs/quickstart".into()),
            shutdown: shutdown.clone(),
        };
        let mut answer = pin!(end(State(ending)));
        assert!(futures::poll!(answer.as_mut()).is_pending());
        shutdown.cancel();
        let body = answer.await.ok().unwrap().into_body();
        let told = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told, json!({ "runs": [], "results": "runs/quickstart" }));
    }
}
