//! The way to the coordinators.

use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::blobs::Blobs;
use crate::channel::ConnectOptions;
use crate::error::{CallError, ConnectError};
use crate::failover::Failover;
use crate::fleet::Fleet;
use crate::runs::Runs;

/// The way to the coordinators, of which one leads. Clones share it; where it breaks it comes about again with the next call.
#[derive(Debug, Clone)]
pub struct Connection {
    /// All of them, for people.
    addresses: Arc<str>,
    transport: Failover,
}

impl Connection {
    /// A connection that comes about when it is first used.
    pub fn lazy(options: &ConnectOptions) -> Self {
        let channels = options.endpoints().map(|(_, endpoint)| endpoint.connect_lazy());
        Self::over(options, Failover::new(channels.collect(), 0, options.authorization()))
    }

    /// Connects to the first coordinator that does not stand by, or else to the last one.
    ///
    /// # Errors
    /// [`ConnectError`] when nobody answers at the last address either.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let endpoints: Vec<(&str, Endpoint)> = options.endpoints().collect();
        let last = endpoints.len() - 1;
        let with = |index: usize, channel: Channel| {
            let mut channels: Vec<Channel> = endpoints.iter().map(|(_, endpoint)| endpoint.connect_lazy()).collect();
            channels[index] = channel;
            Self::over(options, Failover::new(channels, index, options.authorization()))
        };
        for (index, (_, endpoint)) in endpoints.iter().enumerate().take(last) {
            if let Ok(channel) = endpoint.connect().await
                && Self::over(options, Failover::new(vec![channel.clone()], 0, options.authorization()))
                    .leads()
                    .await
            {
                return Ok(with(index, channel));
            }
        }
        let (address, endpoint) = &endpoints[last];
        // The last address's trouble is told, as that of an only one.
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|source| ConnectError::new(address, source))?;
        Ok(with(last, channel))
    }

    fn over(options: &ConnectOptions, transport: Failover) -> Self {
        let addresses: Vec<&str> = options.endpoints().map(|(address, _)| address).collect();
        Self {
            addresses: addresses.join(",").into(),
            transport,
        }
    }

    /// Whether a coordinator answers for its runs; a standby sends every caller away.
    async fn leads(&self) -> bool {
        let answer = self.blobs().missing(&[]).await;
        answer.map_or_else(|error| error.code() != Code::Unavailable, |_| true)
    }

    /// The coordinators' addresses, separated by commas.
    pub fn addresses(&self) -> &str {
        &self.addresses
    }

    /// What workers ask for.
    pub fn fleet(&self) -> Fleet {
        Fleet::new(self.clone())
    }

    /// What people ask for.
    pub fn runs(&self) -> Runs {
        Runs::new(self.clone())
    }

    /// Bytes by their hash.
    pub fn blobs(&self) -> Blobs {
        Blobs::new(self.clone())
    }

    pub(crate) fn transport(&self) -> Failover {
        self.transport.clone()
    }

    pub(crate) fn failed(&self, status: &Status) -> CallError {
        CallError::of_status(&self.addresses, status)
    }

    /// An answer that breaks the protocol is final: asking again would bring the same.
    pub(crate) fn unreadable(&self, problem: impl std::fmt::Display) -> CallError {
        let message = format!("the answer cannot be read (are both sides of the same version?): {problem}");
        CallError::new(&self.addresses, Code::FailedPrecondition, &message)
    }
}
