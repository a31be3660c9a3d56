//! Signed addresses of a cloud store. Whoever knows one may use it for some minutes, so that none is ever repeated: neither in an error nor in a log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use gavel_core::bounds;
use gavel_core::ids::Digest;
use reqwest::{Client, Response, StatusCode, Url, redirect};
use rustls::{ClientConfig, RootCertStore};

use super::{Arrived, Arriving, Keep, Problem};

/// How long a connection to the store may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Asks the store at addresses that the coordinator hands out.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Whether the coordinator is asked over TLS: then nothing goes in the clear to the store either.
    encrypted: bool,
    /// Made when the first address is handed out: it reads the machine's certificates.
    http: OnceLock<Client>,
}

impl Addresses {
    pub(super) fn new(encrypted: bool) -> Self {
        Self {
            encrypted,
            http: OnceLock::new(),
        }
    }

    pub(super) async fn read(&self, address: &str, size: u64, digest: Digest, keep: Keep) -> Result<Arrived, Problem> {
        let url = self.url(address)?;
        let answer = self.http()?.get(url).send().await;
        let mut answer = taken(answer)?;
        let mut arriving = Arriving::new(keep, size);
        while let Some(piece) = answer.chunk().await.map_err(unreached)? {
            arriving.add_within(&piece, size)?;
        }
        arriving.finish_as(digest, size)
    }

    pub(super) async fn write(&self, address: &str, bytes: Bytes) -> Result<(), Problem> {
        let request = self.http()?.put(self.url(address)?);
        // Azure asks for it; to the others it says nothing.
        let request = request.header("x-ms-blob-type", "BlockBlob");
        taken(request.body(bytes).send().await).map(drop)
    }

    /// The address, if it is one to follow.
    fn url(&self, address: &str) -> Result<Url, Problem> {
        if !bounds::ADDRESS.admits(address.len() as u64) {
            return Err(Problem::Location("an address that is too long"));
        }
        let url: Url = address.parse().map_err(|_| Problem::Location("no address"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if !self.encrypted => Ok(url),
            "http" => Err(Problem::Location(
                "an address without encryption, and the coordinator itself is asked with it",
            )),
            _ => Err(Problem::Location("an address of another protocol than HTTP")),
        }
    }

    fn http(&self) -> Result<&Client, Problem> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let http = client()?;
        Ok(self.http.get_or_init(|| http))
    }
}

/// Trusts what the machine trusts, and follows nobody elsewhere.
fn client() -> Result<Client, Problem> {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Problem::Location("TLS, which this machine does not speak"))?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .build()
        .map_err(unreached)
}

/// The answer, if the store has done what it was asked for.
pub(super) fn taken(answer: reqwest::Result<Response>) -> Result<Response, Problem> {
    let answer = answer.map_err(unreached)?;
    match answer.status() {
        StatusCode::OK | StatusCode::CREATED => Ok(answer),
        status => Err(Problem::Answered(status)),
    }
}

pub(super) fn unreached(error: reqwest::Error) -> Problem {
    Problem::Unreached(error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_clear_is_followed_only_where_the_coordinator_is_asked_so() {
        let followed = |encrypted, address: &str| Addresses::new(encrypted).url(address).is_ok();
        assert!(followed(true, "https://store/bucket/blob?signature"));
        assert!(followed(false, "http://store/bucket/blob?signature"));
        assert!(!followed(true, "http://store/bucket/blob?signature"));
        for address in ["", "file:///etc/passwd", "ftp://store/blob", "/bucket/blob"] {
            assert!(!followed(false, address), "{address}");
        }
        let long = format!("https://store/{}", "x".repeat(bounds::ADDRESS.most as usize));
        assert!(!followed(true, &long));
    }

    #[tokio::test]
    async fn nothing_of_an_address_is_told_when_the_store_is_not_reached() {
        // Nobody listens at port 1.
        let address = "http://127.0.0.1:1/bucket/blob?X-Amz-Signature=hunter2";
        let problem = Addresses::new(false).write(address, Bytes::new()).await.unwrap_err();
        let mut told = format!("{problem} {problem:?}");
        let mut cause = std::error::Error::source(&problem);
        while let Some(error) = cause {
            told += &format!(" {error} {error:?}");
            cause = error.source();
        }
        assert!(matches!(problem, Problem::Unreached(_)), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("bucket"), "{told}");
    }
}
