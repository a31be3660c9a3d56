//! Whether the coordinator is ready, asked of its parts now and then and told to everybody who asks in between.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Problem;
use crate::blobs::Blobs;
use crate::driver::DriverHandle;
use crate::ledger::Ledger;

/// How long an answer holds. Each costs the ledger a query and the blob store an object that is written and deleted.
const HOLDS: Duration = Duration::from_secs(5);

/// The latest answer. Clones share it.
#[derive(Clone)]
pub(super) struct Readiness {
    driver: DriverHandle,
    ledger: Arc<dyn Ledger>,
    blobs: Blobs,
    /// Whoever asks while the parts are being asked waits for their answer.
    latest: Arc<Mutex<Option<Answer>>>,
}

struct Answer {
    at: Instant,
    is_ready: Result<(), Problem>,
}

impl Readiness {
    pub(super) fn new(driver: DriverHandle, ledger: Arc<dyn Ledger>, blobs: Blobs) -> Self {
        Self {
            driver,
            ledger,
            blobs,
            latest: Arc::default(),
        }
    }

    /// Ready: the driver answers, the ledger reads, blobs can be written.
    pub(super) async fn check(&self) -> Result<(), Problem> {
        self.driver.answers().await?;
        let mut latest = self.latest.lock().await;
        if let Some(answer) = &*latest
            && answer.at.elapsed() < HOLDS
        {
            return answer.is_ready.clone();
        }
        let is_ready = self.ask().await;
        *latest = Some(Answer {
            at: Instant::now(),
            is_ready: is_ready.clone(),
        });
        is_ready
    }

    async fn ask(&self) -> Result<(), Problem> {
        self.ledger.ready().await.map_err(Problem::unavailable)?;
        self.blobs.check_writable().await.map_err(|error| {
            tracing::warn!(%error, "not ready: the blob store cannot be written");
            Problem::from(error).with_status(axum::http::StatusCode::SERVICE_UNAVAILABLE)
        })
    }
}
