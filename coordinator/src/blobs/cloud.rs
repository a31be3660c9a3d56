//! Blob stores in a cloud.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig, signer};
// Switches TLS on in the HTTP client that object_store uses.
use reqwest as _;

use super::Signer;
use super::open::Cloud;
use crate::address::check_endpoints;

/// The store at `url` below `prefix`, with what `from_env` finds in the environment; also as what signs addresses.
///
/// # Errors
/// What the environment says cannot be used.
pub(super) fn store(scheme: &str, url: &str, prefix: StorePath) -> Result<Cloud, Box<dyn Error + Send + Sync>> {
    check_endpoints(scheme, |name| std::env::var(name).ok())?;
    // reqwest leaves the choice of a cryptography library to the program. An error only says that somebody was first; whoever it
    // was has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(match scheme {
        "s3" => below(
            prefix,
            AmazonS3Builder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
        "gs" => below(
            prefix,
            GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
        _ => below(
            prefix,
            MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
    })
}

fn below<S: ObjectStore + signer::Signer>(prefix: StorePath, store: S) -> Cloud {
    let store = Arc::new(PrefixStore::new(store, prefix));
    let signer = Signing(Arc::clone(&store));
    (store, Arc::new(signer))
}

/// What signs addresses of a cloud store.
#[derive(Debug)]
struct Signing<S>(Arc<S>);

#[async_trait]
impl<S: signer::Signer> Signer for Signing<S> {
    async fn sign(&self, method: Method, object: &StorePath, valid: Duration) -> Result<String, object_store::Error> {
        Ok(self.0.signed_url(method, object, valid).await?.into())
    }
}

/// Workers repeat a call that failed for as long as it takes, so a store that is away is reported soon.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 6,
        retry_timeout: Duration::from_secs(30),
        ..RetryConfig::default()
    }
}
