//! How a coordinator is dialled: the one place where a channel is opened.

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::error::AddressError;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Where the coordinators are, and how they are dialled.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// At least one.
    addresses: Vec<Address>,
    connect_within: Duration,
}

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Neither encrypted nor authenticated: whoever reaches the port may take part. For a network that is trusted.
    Plaintext,
}

/// One coordinator.
#[derive(Debug, Clone)]
struct Address {
    uri: String,
    endpoint: Endpoint,
    security: Security,
}

impl Address {
    fn parse(text: &str) -> Result<Self, AddressError> {
        let (uri, security) = match text.split_once("://") {
            Some(("https", _)) => {
                return Err(AddressError::Encrypted {
                    address: text.to_owned(),
                });
            }
            Some(_) => (text.to_owned(), Security::Plaintext),
            None => (format!("http://{text}"), Security::Plaintext),
        };
        match Endpoint::from_shared(uri.clone()) {
            Ok(endpoint) => Ok(Self {
                uri,
                endpoint,
                security,
            }),
            Err(source) => Err(AddressError::Malformed { address: uri, source }),
        }
    }
}

impl ConnectOptions {
    /// Reads addresses that are separated by commas, each `http://HOST:PORT` or `HOST:PORT`.
    ///
    /// # Errors
    /// [`AddressError`] names the first that is none, or that asks for what this version does not speak.
    pub fn new(addresses: &str) -> Result<Self, AddressError> {
        let addresses = addresses.split(',').map(|text| Address::parse(text.trim()));
        Ok(Self {
            addresses: addresses.collect::<Result<_, _>>()?,
            connect_within: CONNECT_WITHIN,
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

    /// All that a connection is told is told here. A certificate to trust and a token to show would come in with another
    /// [`Security`].
    fn endpoint(&self, address: &Address) -> Endpoint {
        let endpoint = match address.security {
            Security::Plaintext => address.endpoint.clone(),
        };
        endpoint
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
    fn an_address_that_asks_for_encryption_is_refused_rather_than_dialled_in_the_clear() {
        let refused = ConnectOptions::new("http://one:1,https://two:2").unwrap_err();
        assert!(matches!(&refused, AddressError::Encrypted { address } if address == "https://two:2"));
    }
}
