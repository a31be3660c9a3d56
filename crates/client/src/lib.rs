//! Gavel's gRPC client: the only way by which a worker, the command line or a load test talks to a coordinator.
//!
//! A [`Connection`] knows the coordinators' addresses, moves to the next one when nobody or a standby answers, shows the
//! [`Credentials`] of its client, and carries the trace of whoever calls. From it come [`Fleet`] (what workers do), [`Runs`] (what people do) and [`Blobs`] (bytes by their
//! hash; large ones straight from the store and to it, where it is reached, or from workers
//! that share theirs; a [`Sharer`] is one). They take and give the core's types; generated types never leave this crate.
//!
//! A call is made once. Whoever has the patience to repeat it says so with [`persist`].

#![forbid(unsafe_code)]

mod blobs;
mod channel;
mod connection;
mod credentials;
mod dial;
mod direct;
mod error;
mod failover;
mod fleet;
mod history;
mod identity;
mod retry;
mod runs;
mod sharing;
mod trouble;

pub use blobs::Blobs;
pub use channel::ConnectOptions;
pub use connection::Connection;
pub use credentials::{Credentials, CredentialsError};
pub use error::{AddressError, CallError, ConnectError};
pub use fleet::{Failure, Fleet, Heartbeat, Introduction, Lease, LeaseAnswer, Registered, SharingTerms};
pub use history::{HistoryRows, LedgerRow};
pub use identity::Identity;
pub use retry::persist;
pub use runs::{Runs, SpecifiedRun, Submitted, Watch};
pub use sharing::{Sharer, Shares, Sharing, SharingError};
pub use tonic::Code;
