//! From an address to a blob store.

use std::error::Error;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;

use super::{BlobError, Blobs};
use crate::address::{Address, BlobPlace};

impl Blobs {
    /// Opens the store at an address and proves that it can be written to.
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
    /// The clouds need the feature `cloud`.
    ///
    /// # Errors
    /// [`BlobError::Url`]; [`BlobError::Settings`]; [`BlobError::NotBuilt`]; [`BlobError::Denied`]; and as [`Blobs::open_folder`].
    pub async fn open(address: impl Into<Address>, blob_bytes_max: u64) -> Result<Self, BlobError> {
        let address = address.into();
        let (url, scheme, prefix) = match Self::place(&address)? {
            BlobPlace::Folder(folder) => return Self::open_folder(folder, blob_bytes_max).await,
            BlobPlace::Cloud { url, scheme, prefix } => (url, scheme, prefix),
        };
        let prefix = StorePath::from_url_path(prefix).map_err(|error| not_an_address(&address, error))?;
        let store = cloud(&address, scheme, url)?;
        let store: Arc<dyn ObjectStore> = match prefix.as_ref() {
            "" => store,
            _ => Arc::new(PrefixStore::new(store, prefix)),
        };
        let blobs = Self::over(store, url.trim_end_matches('/'), blob_bytes_max);
        blobs.check_writable().await?;
        Ok(blobs)
    }

    /// Where the store at an address is.
    ///
    /// # Errors
    /// [`BlobError::Url`].
    pub(crate) fn place(address: &Address) -> Result<BlobPlace<'_>, BlobError> {
        address.blobs().map_err(|error| not_an_address(address, error))
    }
}

fn not_an_address(address: &Address, source: impl Into<Box<dyn Error + Send + Sync>>) -> BlobError {
    BlobError::Url {
        location: address.to_string(),
        source: source.into(),
    }
}

#[cfg(feature = "cloud")]
fn cloud(address: &Address, scheme: &str, url: &str) -> Result<Arc<dyn ObjectStore>, BlobError> {
    super::cloud::store(scheme, url).map_err(|source| BlobError::Settings {
        location: address.to_string(),
        source,
    })
}

#[cfg(not(feature = "cloud"))]
fn cloud(address: &Address, _: &str, _: &str) -> Result<Arc<dyn ObjectStore>, BlobError> {
    Err(BlobError::NotBuilt {
        location: address.to_string(),
    })
}
