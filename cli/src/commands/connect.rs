//! The coordinator that a command asks.

use clap::Args;

/// How a command finds its coordinator.
#[derive(Debug, Args)]
pub(crate) struct ConnectArguments {
    /// The coordinator's address, http://HOST:PORT; several, separated by commas, where others stand by.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "GAVEL_COORDINATOR",
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) connect: String,
}
