//! How a coordinator is dialled: the one place where a channel is opened.

use std::time::Duration;

use http::HeaderValue;
use tonic::transport::Endpoint;

use crate::credentials::Credentials;
use crate::error::AddressError;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long two sides may then take to agree on encryption.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

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
        let address = || uri.clone();
        let endpoint = Endpoint::from_shared(uri.clone()).map_err(|source| AddressError::Malformed {
            address: address(),
            source,
        })?;
        let endpoint = match uri.starts_with("https://") {
            true => {
                let tls = credentials.tls().timeout(HANDSHAKE_WITHIN);
                endpoint.tls_config(tls).map_err(|source| AddressError::Unencryptable {
                    address: address(),
                    source,
                })?
            }
            false => endpoint,
        };
        Ok(Self { uri, endpoint })
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
        let addresses = addresses.split(',').map(|text| Address::parse(text.trim(), &credentials));
        Ok(Self {
            addresses: addresses.collect::<Result<_, _>>()?,
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

    /// How each coordinator is reached, with its address.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&str, Endpoint)> {
        self.addresses
            .iter()
            .map(|address| (address.uri.as_str(), self.endpoint(address)))
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
            .tcp_nodelay(true)
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
        let uris: Vec<&str> = options.endpoints().map(|(uri, _)| uri).collect();
        assert_eq!(uris, ["http://one:7440", "http://two:7440"]);
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
        let uris: Vec<&str> = options.endpoints().map(|(uri, _)| uri).collect();
        assert_eq!(uris, ["https://one:1", "http://two:2"]);
        let refused = ConnectOptions::new("http://one:1,ftp://two:2").unwrap_err();
        assert!(matches!(&refused, AddressError::UnknownScheme { address, .. } if address == "ftp://two:2"));
    }
}
