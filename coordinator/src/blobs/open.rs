//! From an address to a blob store.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;

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
    /// The clouds need the feature `cloud`.
    ///
    /// # Errors
    /// [`BlobError::Url`]; [`BlobError::NotBuilt`]; [`BlobError::Denied`]; and as [`Blobs::open_folder`].
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
        #[cfg(feature = "cloud")]
        let store = super::cloud::store(scheme, url);
        #[cfg(not(feature = "cloud"))]
        let store: Option<object_store::Result<Arc<dyn ObjectStore>>> = match scheme {
            "s3" | "gs" | "az" => {
                return Err(BlobError::NotBuilt {
                    location: url.to_owned(),
                });
            }
            _ => None,
        };
        let store = store
            .ok_or_else(|| not_an_address("no blob store of this kind is known".into()))?
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
