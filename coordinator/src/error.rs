//! Why a coordinator did not start, or ended.

use std::net::SocketAddr;

use gavel_core::hint::Hint;

use crate::access::Lacks;
use crate::backup::BackupError;
use crate::binding::BindingError;
use crate::blobs::BlobError;
use crate::ledger::LedgerError;
use crate::lock::LockError;
use crate::replay::ReplayError;

/// Why a coordinator did not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process listens there.
    #[error("{part}: address {address} is in use")]
    AddressInUse {
        /// "gRPC" or "HTTP".
        part: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("{part}: cannot listen on {address}")]
    Listen {
        /// "gRPC" or "HTTP".
        part: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others would reach a port that nothing protects.
    #[error("{part}: refuses to listen on {address} {lacks}")]
    Exposed {
        /// "gRPC" or "HTTP".
        part: &'static str,
        /// The address.
        address: SocketAddr,
        /// What is missing.
        lacks: Lacks,
    },
    /// Another coordinator has the ledger or the blobs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The ledger failed. Accepted work is safe; the process ends because its memory may be ahead of the disk.
    #[error("the ledger failed, so the coordinator stops")]
    Ledger(#[from] LedgerError),
    /// The blob store cannot be used.
    #[error("the blob store cannot be used")]
    Blobs(#[from] BlobError),
    /// Ledger and blob store do not belong together.
    #[error("the blob store does not belong to the ledger")]
    Binding(#[from] BindingError),
    /// Nothing was copied.
    #[error("nothing was copied")]
    Backup(#[from] BackupError),
    /// The ledger does not give back what was written.
    #[error("the ledger cannot be replayed")]
    Replay(#[from] ReplayError),
    /// It was told to end while it stood by: nothing went wrong.
    #[error("the coordinator was told to end while another one led")]
    EndedAsStandby,
    /// A server ended.
    #[error("the {part} server ended")]
    Serve {
        /// "gRPC" or "HTTP".
        part: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The reflection service could not be built from the protocol's description.
    #[error("the protocol's description is not valid")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A task panicked: a defect.
    #[error("a task of the coordinator panicked")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::AddressInUse { .. } => {
                Some("stop the other process, or choose another port; port 0 takes any that is free".to_owned())
            }
            Self::Listen { .. } => {
                Some("check that the address is one of this machine's; ports below 1024 need privileges".to_owned())
            }
            Self::Exposed { .. } => Some(
                "give --tls-cert, --tls-key and --tokens (`gavel certificates new` and `gavel token new` make them), or --insecure on a network that you trust"
                    .to_owned(),
            ),
            Self::Lock(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Blobs(error) => error.hint(),
            Self::Binding(error) => error.hint(),
            Self::Backup(error) => error.hint(),
            Self::Replay(error) => error.hint(),
            Self::EndedAsStandby | Self::Serve { .. } | Self::Reflection(_) | Self::Panicked(_) => None,
        }
    }
}
