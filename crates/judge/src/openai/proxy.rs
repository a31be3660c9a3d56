//! By way of which proxy a server is asked.

use gavel_core::spec::ServerAddress;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// The proxies that the environment names: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in either case.
pub(crate) struct Proxies(Matcher);

/// The proxy of one server.
#[derive(Clone)]
pub(super) struct Proxy {
    /// For people: without the user and the password.
    pub(super) address: String,
    credentials: Option<http::HeaderValue>,
}

impl Proxies {
    pub(crate) fn from_env() -> Self {
        Self(Matcher::from_env())
    }

    #[cfg(test)]
    pub(super) fn all(address: &str) -> Self {
        Self(Matcher::builder().all(address).build())
    }

    /// The proxy of a server that is not on this machine: a proxy elsewhere would look for it on its own.
    pub(super) fn of(&self, server: &ServerAddress) -> Option<Proxy> {
        if server.is_loopback() {
            return None;
        }
        let found = self.0.intercept(&server.to_string().parse::<Uri>().ok()?)?;
        let uri = found.uri();
        Some(Proxy {
            address: format!(
                "{}://{}{}",
                uri.scheme_str().unwrap_or("http"),
                uri.host().unwrap_or_default(),
                uri.port_u16().map_or_else(String::new, |port| format!(":{port}"))
            ),
            credentials: found.basic_auth().cloned(),
        })
    }
}

impl Proxy {
    /// For the client of that server alone.
    pub(super) fn build(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(&self.address)?;
        Ok(match &self.credentials {
            Some(credentials) => proxy.custom_http_auth(credentials.clone()),
            None => proxy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_asked_without_a_proxy_and_no_password_is_shown() {
        let proxies = Proxies::all("http://user:secret@proxy.example:3128");
        let of = |server: &str| proxies.of(&server.parse().unwrap());
        for server in [
            "http://127.0.0.1:8000/v1",
            "http://localhost:8000/v1",
            "http://[::1]/v1",
        ] {
            assert!(of(server).is_none(), "{server}");
        }
        let proxy = of("http://judge.example/v1").unwrap();
        assert_eq!(proxy.address, "http://proxy.example:3128");
        assert!(proxy.credentials.is_some());
    }
}
