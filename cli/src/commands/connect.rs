//! How a command is told where the coordinator is: `--connect`, spelled once for all of them.

use clap::{Arg, Args};

/// The variable that may say it for a whole machine.
pub(super) const COORDINATOR: &str = "GAVEL_COORDINATOR";

/// Where the coordinator is. A command that means something else by leaving it out says so with `mut_arg`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connect {
    /// The coordinator's address, http://HOST:PORT; several, separated by commas, where others stand by.
    #[arg(
        long = "connect",
        value_name = "ADDRESS",
        env = COORDINATOR,
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) addresses: String,
}

/// `--connect` of a worker, which waits for its coordinator for ever: it does not guess where that would be.
pub(super) fn without_default(connect: Arg) -> Arg {
    connect.default_value(None).required(true)
}
