//! The async runtime, and how a process hears that it should end.

use std::future::Future;
use std::io::Read as _;
use std::sync::OnceLock;

use clap::Args;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::diagnostic::{Context as _, Result};
use crate::signals::Signals;

/// How a process that `gavel run` started hears that it should end.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ParentArguments {
    /// End in good order when standard input is closed.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

/// One for the whole process, so that a connection that one future opened serves the next. It is never shut down: a unit that does
/// not look at its cancellation keeps a thread, which ends with the process.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Runs a future to its end.
///
/// # Errors
/// The future's, or that the system gives no threads.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    if let Some(runtime) = RUNTIME.get() {
        return runtime.block_on(future);
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    RUNTIME.get_or_init(|| runtime).block_on(future)
}

/// A token that is cancelled by a signal that asks the program to end and, for a child process, when the parent closes its
/// standard input or dies.
///
/// # Errors
/// The system does not deliver signals.
pub(crate) fn shutdown_token(parent: ParentArguments) -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let on_signal = token.clone();
    let mut signals = Signals::listen()?;
    tokio::spawn(async move {
        let signal = signals.next().await;
        tracing::info!("{signal}: ends in good order");
        on_signal.cancel();
    });
    if parent.until_stdin_closes {
        let on_close = token.clone();
        // A thread of its own: reading a pipe cannot be cancelled, and it ends with the process.
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            let mut ignored = [0; 64];
            while matches!(stdin.read(&mut ignored), Ok(count) if count > 0) {}
            on_close.cancel();
        });
    }
    Ok(token)
}
