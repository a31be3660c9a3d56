//! What every worker of the fleet shares: it registers with the coordinator, leases units of work, keeps the leases alive,
//! hands results in, and leaves in good order.
//!
//! A worker implements [`Work`] (plain blocking code on its own thread) and calls [`run`]; everything that can happen between
//! it and the coordinator is handled here: a coordinator that restarts, a lease that is lost, a shutdown in the middle of a
//! unit. This crate knows no model.

mod allowed;
mod blobs;
mod busy;
mod cache;
mod context;
mod error;
mod heartbeat;
mod kept;
mod lease;
mod options;
mod runner;
mod session;
mod sharer;
mod specs;
mod thread;
mod work;

pub use allowed::{Allowed, AllowedEndpoint, AllowedVariable, NotAllowed};
pub use context::WorkContext;
pub use error::Error;
pub use gavel_client::Sharing;
pub use options::WorkerOptions;
pub use runner::run;
pub use work::{Work, WorkError};
