//! Blob stores in a cloud.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};
// Switches TLS on in the HTTP client that object_store uses.
use reqwest as _;

/// The store at `url`, with what `from_env` finds in the environment; `None` for a scheme that is no cloud's.
pub(super) fn store(scheme: &str, url: &str) -> Option<object_store::Result<Arc<dyn ObjectStore>>> {
    // reqwest leaves the choice of a cryptography library to the program. An error only says that somebody was first; whoever it
    // was has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Some(match scheme {
        "s3" => AmazonS3Builder::from_env()
            .with_url(url)
            .with_retry(retries())
            .build()
            .map(|store| Arc::new(store) as _),
        "gs" => GoogleCloudStorageBuilder::from_env()
            .with_url(url)
            .with_retry(retries())
            .build()
            .map(|store| Arc::new(store) as _),
        "az" => MicrosoftAzureBuilder::from_env()
            .with_url(url)
            .with_retry(retries())
            .build()
            .map(|store| Arc::new(store) as _),
        _ => return None,
    })
}

/// Workers repeat a call that failed for as long as it takes, so a store that is away is reported soon.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 6,
        retry_timeout: Duration::from_secs(30),
        ..RetryConfig::default()
    }
}
