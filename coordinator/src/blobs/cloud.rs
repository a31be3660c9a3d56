//! Blob stores in a cloud.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};
// Switches TLS on in the HTTP client that object_store uses.
use reqwest as _;

use crate::address::check_endpoints;

/// The store at `url`, with what `from_env` finds in the environment.
///
/// # Errors
/// What the environment says cannot be used.
pub(super) fn store(scheme: &str, url: &str) -> Result<Arc<dyn ObjectStore>, Box<dyn Error + Send + Sync>> {
    check_endpoints(scheme, |name| std::env::var(name).ok())?;
    // reqwest leaves the choice of a cryptography library to the program. An error only says that somebody was first; whoever it
    // was has installed the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(match scheme {
        "s3" => Arc::new(
            AmazonS3Builder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
        _ => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_retry(retries())
                .build()?,
        ),
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
