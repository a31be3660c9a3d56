//! Where a judge's server is.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// Base address of a server: `http` or `https`, a host, perhaps a port and a path. The one reading of such an address: what is
/// checked, allowed and asked is this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress(Url);

/// A text that is no base address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerAddressError {
    /// It is no address, or has no scheme.
    #[error("must be the server's base address, such as http://127.0.0.1:8000/v1, not {text:?}")]
    NoAddress {
        /// What was given.
        text: String,
    },
    /// It holds more than an address. It may be a secret, and is not repeated.
    #[error("must hold neither a key nor a query: name the key's environment variable in api_key_env")]
    Excess,
}

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        if text.contains(['@', '?', '#']) {
            return Err(ServerAddressError::Excess);
        }
        let no_address = || ServerAddressError::NoAddress { text: text.to_owned() };
        let has_scheme = text.starts_with("http://") || text.starts_with("https://");
        // A parser of addresses forgives these, and every one forgives them in its own way.
        let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '\\';
        if !has_scheme || text.contains(is_odd) {
            return Err(no_address());
        }
        let mut url = Url::parse(text).map_err(|_| no_address())?;
        if url.host().is_none() {
            return Err(no_address());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self(url))
    }
}

impl ServerAddress {
    /// Whether the server runs on the machine that asks it.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => {
                address.is_loopback() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
            }
            None => false,
        }
    }

    /// Whether `other` is on the same server, at or below this path.
    pub fn covers(&self, other: &Self) -> bool {
        let server = |url: &Url| {
            (
                url.scheme().to_owned(),
                url.host_str().map(str::to_owned),
                url.port_or_known_default(),
            )
        };
        let [own, path] = [&self.0, &other.0].map(|url| url.path().trim_end_matches('/'));
        let below = path
            .strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // A server may take these for slashes, and climb.
        let hides_slashes = ["%2f", "%5c", "%25"]
            .iter()
            .any(|code| path.to_ascii_lowercase().contains(code));
        server(&self.0) == server(&other.0) && below && (own == path || !hides_slashes)
    }
}

/// Without a slash at its end.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_base_address_is_read_and_written_without_its_last_slash() {
        for (text, written) in [
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
            ("https://judge.example/v1/", "https://judge.example/v1"),
            ("http://JUDGE.example", "http://judge.example"),
            ("http://[::1]:8000//", "http://[::1]:8000"),
            ("http://judge.example/a/../v1", "http://judge.example/v1"),
        ] {
            assert_eq!(address(text).to_string(), written);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_secrets_are_not_repeated() {
        for text in [
            "",
            "localhost:8000/v1",
            "judge.example/v1",
            "ftp://judge.example",
            "http://",
            "http://a b/v1",
            "http://judge.example\\v1",
            "http://judge.example\n/v1",
            "http://judge.example:port",
        ] {
            let error = ServerAddress::from_str(text).unwrap_err();
            assert!(
                error.to_string().contains("such as http://127.0.0.1:8000/v1"),
                "{text}: {error}"
            );
        }
        for text in [
            "http://user:secret@judge.example/v1",
            "http://judge.example/v1?key=secret",
            "http://a/#secret",
        ] {
            let error = ServerAddress::from_str(text).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for text in [
            "http://localhost:1",
            "http://judge.localhost",
            "http://127.0.0.1",
            "http://127.8.8.8",
            "http://[::1]/v1",
            "http://[::ffff:127.0.0.1]",
            "http://2130706433",
        ] {
            assert!(address(text).is_loopback(), "{text}");
        }
        for text in [
            "http://localhost.example",
            "http://128.0.0.1",
            "http://[::2]",
            "http://judge.example/127.0.0.1",
        ] {
            assert!(!address(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn an_address_covers_its_own_server_below_its_path_and_nothing_else() {
        let allowed = address("https://judge.example/v1");
        for text in [
            "https://judge.example/v1/",
            "https://JUDGE.example:443/v1",
            "https://judge.example/v1/team",
        ] {
            assert!(allowed.covers(&address(text)), "{text}");
        }
        for text in [
            "http://judge.example/v1",
            "https://judge.example:8443/v1",
            "https://judge.example.evil/v1",
            "https://judge.example/v10",
            "https://judge.example/v1/../admin",
            "https://judge.example/v1/%2e%2e/admin",
            "https://judge.example/v1/..%2fadmin",
            "https://judge.example",
        ] {
            assert!(!allowed.covers(&address(text)), "{text}");
        }
        assert!(address("http://judge.example").covers(&address("http://judge.example/any/path")));
    }
}
