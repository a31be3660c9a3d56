//! Which coordinators are dialled, and how: the one place where a channel is opened.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::credentials::Credentials;
use crate::dial::{Dialler, LatestTrouble};
use crate::error::AddressError;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Where the coordinators are, and how they are dialled.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// At least one.
    addresses: Vec<Address>,
    connect_within: Duration,
    credentials: Credentials,
}

/// One coordinator.
#[derive(Debug, Clone)]
struct Address {
    uri: String,
    endpoint: Endpoint,
    /// How it is encrypted, and for which name.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Address {
    fn parse(text: &str, credentials: &Credentials) -> Result<Self, AddressError> {
        let uri = match text.split_once("://") {
            Some(("http" | "https", _)) => text.to_owned(),
            Some((scheme, _)) => {
                return Err(AddressError::UnknownScheme {
                    address: text.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            None => format!("http://{text}"),
        };
        let endpoint = Endpoint::from_shared(uri.clone()).map_err(|source| AddressError::Malformed {
            address: uri.clone(),
            source,
        })?;
        let tls = match uri.starts_with("https://") {
            true => Some(
                encryption(&endpoint, credentials).map_err(|source| AddressError::Unencryptable {
                    address: uri.clone(),
                    source,
                })?,
            ),
            false => None,
        };
        Ok(Self { uri, endpoint, tls })
    }

    /// Whether what is said there goes in the clear beyond this machine.
    fn tells_the_network(&self) -> bool {
        let host = self.endpoint.uri().host().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        self.tls.is_none() && !is_here
    }
}

fn encryption(
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Box<dyn Error + Send + Sync>> {
    let host = endpoint.uri().host().unwrap_or_default();
    let name = ServerName::try_from(host.trim_matches(['[', ']']))?.to_owned();
    Ok((Arc::new(credentials.tls()?), name))
}

/// The way to one coordinator.
pub(crate) struct Way<'a> {
    pub(crate) address: &'a str,
    endpoint: Endpoint,
    dialler: Dialler,
}

impl Way<'_> {
    /// A channel that comes about when it is first used.
    pub(crate) fn lazy(&self) -> Channel {
        self.endpoint.connect_with_connector_lazy(self.dialler.clone())
    }

    pub(crate) async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint.connect_with_connector(self.dialler.clone()).await
    }
}

impl ConnectOptions {
    /// Reads addresses that are separated by commas, each `https://HOST:PORT`, `http://HOST:PORT` or `HOST:PORT`, which is in the
    /// clear. Coordinators are trusted that the system trusts, and nothing is shown to them.
    ///
    /// # Errors
    /// [`AddressError`] names the first that is none.
    pub fn new(addresses: &str) -> Result<Self, AddressError> {
        Self::with(addresses, Credentials::default())
    }

    /// As [`ConnectOptions::new`], with what the client trusts and shows.
    ///
    /// # Errors
    /// [`AddressError`] names the first that is none, or for which the credentials cannot be used.
    pub fn with(addresses: &str, credentials: Credentials) -> Result<Self, AddressError> {
        let addresses = addresses
            .split(',')
            .map(|text| Address::parse(text.trim(), &credentials));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let in_the_clear = addresses.iter().find(|address| address.tells_the_network());
        if let (Some(Address { uri, .. }), Some(_)) = (in_the_clear, credentials.token()) {
            tracing::warn!("the token travels in the clear to {uri}: whoever reads the network may use it");
        }
        Ok(Self {
            addresses,
            connect_within: CONNECT_WITHIN,
            credentials,
        })
    }

    /// Lets a connection take this long to come about, instead of 5 seconds.
    #[must_use]
    pub fn connect_within(mut self, limit: Duration) -> Self {
        self.connect_within = limit;
        self
    }

    /// The addresses, separated by commas.
    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.addresses.iter().map(|address| address.uri.as_str()).collect();
        addresses.join(",")
    }

    /// The ways to all coordinators, in order. What keeps their connections from being used is noted in `trouble`.
    pub(crate) fn ways(&self, trouble: &LatestTrouble) -> Vec<Way<'_>> {
        let ways = self.addresses.iter().map(|address| {
            let tls = address.tls.clone();
            let tls = tls.map(|(config, name)| (TlsConnector::from(config), name));
            Way {
                address: &address.uri,
                endpoint: self.endpoint(address),
                dialler: Dialler::new(tls, trouble.clone()),
            }
        });
        ways.collect()
    }

    /// What every call shows of the client.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let token = self.credentials.token()?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// All that a connection is told is told here.
    fn endpoint(&self, address: &Address) -> Endpoint {
        address
            .endpoint
            .clone()
            .connect_timeout(self.connect_within)
            // A coordinator whose machine vanished is noticed in half a minute, not after TCP's many minutes.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_scheme() {
        let options = ConnectOptions::new("one:7440, http://two:7440").unwrap();
        assert_eq!(options.addresses(), "http://one:7440,http://two:7440");
    }

    #[test]
    fn what_is_no_address_is_refused_before_anybody_dials() {
        for text in ["", "one,", "no address", "http://"] {
            let refused = ConnectOptions::new(text);
            assert!(
                matches!(refused, Err(AddressError::Malformed { .. })),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn an_address_is_asked_as_it_says_or_not_at_all() {
        let options = ConnectOptions::new("https://one:1, http://two:2").unwrap();
        assert_eq!(options.addresses(), "https://one:1,http://two:2");
        let refused = ConnectOptions::new("http://one:1,ftp://two:2").unwrap_err();
        assert!(matches!(&refused, AddressError::UnknownScheme { address, .. } if address == "ftp://two:2"));
    }
}
