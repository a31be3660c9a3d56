//! From an address to a blob store.

use std::error::Error;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as StorePath;

use super::{BlobError, Blobs, Signer};
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
        let (store, signer) = cloud(&address, scheme, url, prefix)?;
        let blobs = Self::over(store, url.trim_end_matches('/'), blob_bytes_max).signed_by(signer);
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

/// A cloud store, as what is read and written and as what signs addresses.
pub(super) type Cloud = (Arc<dyn ObjectStore>, Arc<dyn Signer>);

#[cfg(feature = "cloud")]
fn cloud(address: &Address, scheme: &str, url: &str, prefix: StorePath) -> Result<Cloud, BlobError> {
    super::cloud::store(scheme, url, prefix).map_err(|source| BlobError::Settings {
        location: address.to_string(),
        source,
    })
}

#[cfg(not(feature = "cloud"))]
fn cloud(address: &Address, _: &str, _: &str, _: StorePath) -> Result<Cloud, BlobError> {
    Err(BlobError::NotBuilt {
        location: address.to_string(),
    })
}
