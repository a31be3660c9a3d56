//! From an address to a blob store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};

use super::{BlobError, Blobs};

impl Blobs {
    /// Opens the store at `url` and proves that it can be written to.
    ///
    /// | address | store |
    /// |---|---|
    /// | `PATH`, `file:///PATH` | a folder; the path as it stands, without %-escapes |
    /// | `s3://BUCKET/PREFIX` | S3 or a server that speaks its protocol: `AWS_*` |
    /// | `gs://BUCKET/PREFIX` | Google Cloud Storage: `GOOGLE_*` |
    /// | `az://CONTAINER/PREFIX` | Azure Blob Storage: `AZURE_*` |
    ///
    /// Credentials, region and endpoint come from the named environment variables, as object_store's `from_env` reads them.
    ///
    /// # Errors
    /// [`BlobError::Url`]; [`BlobError::Denied`]; and as [`Blobs::open_folder`].
    pub async fn open(url: &str, blob_bytes_max: u64) -> Result<Self, BlobError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Self::open_folder(Path::new(url), blob_bytes_max).await;
        };
        let not_an_address = |source| BlobError::Url {
            location: url.to_owned(),
            source,
        };
        if scheme == "file" {
            return match rest.starts_with('/') {
                true => Self::open_folder(Path::new(rest), blob_bytes_max).await,
                false => Err(not_an_address("the path must be absolute: file:///PATH".into())),
            };
        }
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
        let prefix = StorePath::from_url_path(prefix).map_err(|error| not_an_address(error.into()))?;
        let store: Arc<dyn ObjectStore> = match scheme {
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
            _ => return Err(not_an_address("no blob store of this kind is known".into())),
        }
        .map_err(|error| not_an_address(error.into()))?;
        let store: Arc<dyn ObjectStore> = match prefix.as_ref() {
            "" => store,
            _ => Arc::new(PrefixStore::new(store, prefix)),
        };
        let blobs = Self::over(store, url.trim_end_matches('/'), blob_bytes_max);
        blobs.check_writable().await?;
        Ok(blobs)
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
