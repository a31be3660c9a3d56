//! Who of several coordinators on one ledger may write.

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::LedgerError;

/// What a coordinator that wants to lead is told.
#[derive(Debug)]
pub enum Candidacy {
    /// It leads, as long as it holds this.
    Leads(Leadership),
    /// Another coordinator leads.
    StandsBy {
        /// Its name for people.
        leader: String,
    },
}

/// The right to write to a ledger. Dropping it gives the right up at once; hold it until the last write has ended.
#[derive(Debug)]
pub struct Leadership {
    /// The task that holds the right and ends with the reason when it is lost. `None`: nobody can take it away.
    keeper: Option<AbortOnDropHandle<Option<LedgerError>>>,
    resigned: CancellationToken,
}

impl Leadership {
    /// The leadership of a ledger that no other machine reaches.
    pub fn undisputed() -> Self {
        Self {
            keeper: None,
            resigned: CancellationToken::new(),
        }
    }

    /// A leadership that lasts as long as the task that `keep` makes. The task ends with an error when it is lost, and with
    /// `None` soon after its token is cancelled.
    #[cfg(feature = "postgres")]
    pub(super) fn kept<F>(keep: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Option<LedgerError>> + Send + 'static,
    {
        let resigned = CancellationToken::new();
        let keeper = tokio::spawn(keep(resigned.clone()));
        Self {
            keeper: Some(AbortOnDropHandle::new(keeper)),
            resigned,
        }
    }

    /// Waits until the right is lost; for ever, where nobody can take it away. Not to be called again after it has answered.
    pub async fn lost(&mut self) -> LedgerError {
        match &mut self.keeper {
            Some(keeper) => match keeper.await {
                Ok(Some(error)) => error,
                // The task ends unasked only with an error; this is a panic.
                Ok(None) | Err(_) => LedgerError::Deposed {
                    location: "the ledger".to_owned(),
                },
            },
            None => std::future::pending().await,
        }
    }

    /// Gives the right up in good order, so that a standby takes over without waiting.
    pub async fn resign(mut self) {
        self.resigned.cancel();
        if let Some(keeper) = self.keeper.take() {
            // What went wrong while leaving concerns nobody any more.
            let _ = keeper.await;
        }
    }
}
