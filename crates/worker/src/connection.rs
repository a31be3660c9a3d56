//! The way to the coordinator, and which failures pass.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use gavel_proto::v1::blobs_client::BlobsClient;
use gavel_proto::v1::fleet_client::FleetClient;
use gavel_proto::v1::runs_client::RunsClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::Error;
use crate::failover::Failover;

/// The largest message either way: a run's assets carry every prompt.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long an answer may take that the coordinator does not hold back on purpose.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A connection that comes about when it is first used and again whenever it broke. Where several addresses are given, it
/// goes to the next one when nobody, or a standby, answers.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// All addresses, for people.
    pub(crate) address: String,
    channel: Failover,
}

impl Connection {
    /// `addresses` are separated by commas.
    pub(crate) fn new(addresses: &str) -> Result<Self, Error> {
        let channels = addresses.split(',').map(|address| channel(address.trim()));
        Ok(Self {
            channel: Failover::new(channels.collect::<Result<_, _>>()?),
            address: addresses.to_owned(),
        })
    }

    pub(crate) fn fleet(&self) -> FleetClient<Failover> {
        FleetClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn runs(&self) -> RunsClient<Failover> {
        RunsClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn blobs(&self) -> BlobsClient<Failover> {
        BlobsClient::new(self.channel.clone())
    }
}

fn channel(address: &str) -> Result<Channel, Error> {
    let address = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|source| Error::Address { address, source })?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        // A coordinator whose machine vanished is noticed in half a minute, not after TCP's many minutes.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// A request that must be answered soon.
pub(crate) fn prompt<T>(message: T) -> Request<T> {
    within(message, ANSWER_WITHIN)
}

/// A request that must be answered within `limit`.
pub(crate) fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// Whether the same request may succeed later. What the coordinator decided stays decided; everything else (no connection,
/// a stream that broke, a full disk) passes.
pub(crate) fn passes(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated
    )
}

/// From 100 ms, doubling to 5 s, each time up to twice as long by chance, so that a fleet does not fall on a coordinator that
/// comes back all at once. Without an end: a worker waits for days.
fn patience() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

/// Repeats `attempt` until it succeeds or fails for good. The caller bounds it by dropping the future.
pub(crate) async fn persist<T, F>(what: &'static str, attempt: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    attempt
        .retry(patience())
        .when(passes)
        .notify(|status, delay| {
            tracing::debug!(what, code = ?status.code(), message = status.message(), ?delay, "the coordinator did not answer");
        })
        .await
}

#[cfg(test)]
mod tests {
    use backon::BackoffBuilder as _;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_never_end_and_differ_between_workers() {
        let pauses = || patience().build().take(40).collect::<Vec<Duration>>();
        let (one, other) = (pauses(), pauses());
        assert_eq!(one.len(), 40, "a worker looks for its coordinator for ever");
        assert_ne!(one, other);
        for (index, pause) in one.iter().enumerate() {
            let plain = Duration::from_millis(100 << index.min(6)).min(Duration::from_secs(5));
            assert!(
                (plain..=2 * plain).contains(pause),
                "pause {index} is {pause:?}, not {plain:?} to twice that"
            );
        }
    }
}
