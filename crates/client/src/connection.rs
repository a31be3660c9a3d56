//! The way to the coordinators.

use std::error::Error as _;
use std::sync::Arc;

use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::blobs::Blobs;
use crate::channel::{ConnectOptions, Way};
use crate::dial::LatestTrouble;
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
    trouble: LatestTrouble,
}

impl Connection {
    /// A connection that comes about when it is first used.
    pub fn lazy(options: &ConnectOptions) -> Self {
        let trouble = LatestTrouble::default();
        let channels = options.ways(&trouble).iter().map(Way::lazy).collect();
        Self::over(options, channels, 0, trouble)
    }

    /// Connects to the first coordinator that does not stand by, or else to the last one.
    ///
    /// # Errors
    /// [`ConnectError`] when nobody answers at the last address either.
    pub async fn open(options: &ConnectOptions) -> Result<Self, ConnectError> {
        let trouble = LatestTrouble::default();
        let ways = options.ways(&trouble);
        let last = ways.len() - 1;
        let with = |index: usize, channel: Channel| {
            let mut channels: Vec<Channel> = ways.iter().map(Way::lazy).collect();
            channels[index] = channel;
            Self::over(options, channels, index, trouble.clone())
        };
        for (index, way) in ways.iter().enumerate().take(last) {
            if let Ok(channel) = way.connect().await
                && Self::over(options, vec![channel.clone()], 0, trouble.clone())
                    .leads()
                    .await
            {
                return Ok(with(index, channel));
            }
        }
        // The last address's trouble is told, as that of an only one.
        match ways[last].connect().await {
            Ok(channel) => Ok(with(last, channel)),
            Err(source) => Err(ConnectError::new(ways[last].address, trouble.get(), source)),
        }
    }

    fn over(options: &ConnectOptions, channels: Vec<Channel>, first: usize, trouble: LatestTrouble) -> Self {
        Self {
            addresses: options.addresses().into(),
            transport: Failover::new(channels, first, options.authorization()),
            trouble,
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

    /// Whether a coordinator is asked over TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.addresses.split(',').any(|address| address.starts_with("https://"))
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
        // What a coordinator answers has no cause here.
        let trouble = status.source().and_then(|_| self.trouble.get());
        match trouble {
            Some(trouble) => CallError::of_trouble(&self.addresses, trouble),
            None => CallError::new(&self.addresses, status.code(), status.message()),
        }
    }

    /// An answer that breaks the protocol is final: asking again would bring the same.
    pub(crate) fn unreadable(&self, problem: impl std::fmt::Display) -> CallError {
        let message = format!("the answer cannot be read (are both sides of the same version?): {problem}");
        CallError::new(&self.addresses, Code::FailedPrecondition, &message)
    }
}
