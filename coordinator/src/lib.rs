//! The coordinator: hands work to the fleet, writes down every accepted fact before it answers, and shows where a run stands.
//!
//! Requests come in through `grpc/` and `http/`, both thin. One task, the driver, owns the runs: it applies events to the
//! pure state machine of `gavel-core`, appends them to the ledger, and only then answers. [`blobs`] holds the bytes that
//! workers exchange; [`ledger`] holds what must survive; `access` knows who may do what. [`Coordinator::start`] puts the parts together. Of several
//! coordinators on one ledger one leads; the others wait in `standby`.
//!
//! It computes nothing itself, loads no model, and never dials a worker.

#![forbid(unsafe_code)]

mod access;
mod address;
mod backup;
mod binding;
pub mod blobs;
mod driver;
mod error;
pub mod gallery;
mod grpc;
mod http;
pub mod ledger;
mod lock;
mod metrics;
mod options;
mod recovery;
mod replay;
mod server;
mod sharing;
mod snapshots;
mod standby;
mod state;
mod steps;
mod sweeper;
mod transport;
mod waiters;
pub mod web;
mod worker;

pub use access::{KnownToken, Lacks, Permission, TokenRole, Tokens, TokensError, UnknownRole};
pub use address::{Address, InvalidAddress};
pub use backup::{BackupError, Copied, copy};
pub use binding::{Adoption, BindingError};
pub use driver::{DriverError, DriverHandle, Submitted};
pub use error::Error;
pub use lock::{FolderLock, LockError};
pub use options::CoordinatorOptions;
pub use replay::{ReplayError, read_rows, read_run, replay};
pub use server::{Coordinator, CoordinatorHandle, LOCK_FILE, Listeners, Stores};
pub use snapshots::replayed as replayed_snapshot;
pub use transport::{ServerTls, TlsError};
