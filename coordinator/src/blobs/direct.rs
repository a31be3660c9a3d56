//! Where blobs lie for those who reach the store themselves, so that large ones need not pass through the coordinator.
//!
//! Nobody is told of a place that the coordinator has not looked at: who wants to read hears the size of what is there, and who wants to
//! write gets a place only for a blob that is not there. One that is there is sent through the coordinator like any other, which
//! writes it again: that repairs a damaged copy, and takes it out of the trash.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gavel_core::blob_store::DIRECT_BYTES_MIN;
use gavel_core::ids::Digest;
use http::Method;
use object_store::path::Path as StorePath;

use super::{BlobError, Blobs, place};

/// How long an address may be used. It is used at once; the rest is for clocks that differ.
const ADDRESS_VALID: Duration = Duration::from_secs(300);
/// The largest blob that is written to an address: what Azure takes in one request. S3 takes 5 GiB.
const ADDRESS_BYTES_MAX: u64 = 5_000 << 20;
/// Allotments that are looked after at a time, when their time has passed.
const EXPIRED_TOGETHER: usize = 64;

/// Makes addresses at which whoever knows them may do one thing to one object for some minutes.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync {
    /// An address for this method on this object.
    ///
    /// # Errors
    /// What keeps the store's credentials from signing.
    async fn sign(&self, method: Method, object: &StorePath, valid: Duration) -> Result<String, object_store::Error>;
}

/// How somebody reaches the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reach {
    /// They ask HTTP servers.
    pub addresses: bool,
    /// They have a folder that may be the store's.
    pub folder: bool,
}

/// Where a blob lies, or may be written.
#[derive(Clone)]
pub enum Site {
    /// An address to GET or to PUT. Whoever knows it may do that.
    Address(String),
    /// In the store's folder.
    Folder,
}

/// An address is a secret.
impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address(_) => "Address(..)",
            Self::Folder => "Folder",
        })
    }
}

impl Blobs {
    /// Hands out addresses from now on.
    ///
    /// # Errors
    /// [`BlobError::Unsigned`] where the store makes none.
    pub fn with_addresses(mut self) -> Result<Self, BlobError> {
        if self.signer.is_none() {
            return Err(BlobError::Unsigned {
                location: self.location.to_string(),
            });
        }
        self.hands_out_addresses = true;
        Ok(self)
    }

    /// Takes addresses from this signer.
    #[must_use]
    pub fn signed_by(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Where a large blob lies for somebody who reaches the store so, and its size in bytes; `None` for a blob that is small or not there,
    /// or that they do not reach.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn locate(&self, digest: &Digest, reach: Reach) -> Result<Option<(Site, u64)>, BlobError> {
        if !self.is_reached(reach) {
            return Ok(None);
        }
        match self.size(digest).await? {
            Some(size) if size >= DIRECT_BYTES_MIN => Ok(Some((self.site(Method::GET, digest).await?, size))),
            _ => Ok(None),
        }
    }

    /// Where a large blob may be written by somebody who reaches the store so; `None` for a blob that is small or there already, for which
    /// there is no room, or that they do not reach. It counts for the quota from now on, and no longer than a quarter of an hour
    /// where it does not come.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn allot(&self, digest: &Digest, size: u64, reach: Reach) -> Result<Option<Site>, BlobError> {
        let is_taken = (DIRECT_BYTES_MIN..=self.blob_bytes_max).contains(&size)
            && self.is_reached(reach)
            && (self.folder.is_some() || size <= ADDRESS_BYTES_MAX);
        if !is_taken || self.size(digest).await?.is_some() {
            return Ok(None);
        }
        if let Some(quota) = &self.quota {
            self.settle_expired(Instant::now()).await?;
            if !self.allotments.take(quota, *digest, size, Instant::now()) {
                return Ok(None);
            }
        }
        Ok(Some(self.site(Method::PUT, digest).await?))
    }

    /// Whether a blob that was written straight to the store is there in its size.
    ///
    /// # Errors
    /// [`BlobError::Store`] when the store does not answer.
    pub async fn confirm(&self, digest: &Digest, size: u64) -> Result<bool, BlobError> {
        Ok(self.settle(digest).await? == Some(size))
    }

    /// The size of a blob, or `None` when there is none. What was allotted for it counts from here on for what is there.
    pub(super) async fn settle(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let size = self.size(digest).await?;
        if let Some(room) = self.allotments.remove(digest)
            && let Some(size) = size
        {
            room.hold(size);
        }
        Ok(size)
    }

    /// Settles allotments whose time has passed; whether there was one.
    pub(super) async fn settle_expired(&self, now: Instant) -> Result<bool, BlobError> {
        let expired = self.allotments.expired(now, EXPIRED_TOGETHER);
        for digest in &expired {
            self.settle(digest).await?;
        }
        Ok(!expired.is_empty())
    }

    fn is_reached(&self, reach: Reach) -> bool {
        (reach.folder && self.folder.is_some()) || (reach.addresses && self.hands_out_addresses)
    }

    /// For somebody who reaches the store: it is a folder, or it signs.
    async fn site(&self, method: Method, digest: &Digest) -> Result<Site, BlobError> {
        match &self.signer {
            Some(signer) if self.folder.is_none() => {
                let address = signer.sign(method, &place(digest), ADDRESS_VALID).await;
                let address = address.map_err(|source| BlobError::from_store(&self.location, "sign for", source))?;
                Ok(Site::Address(address))
            }
            _ => Ok(Site::Folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::super::allotments::ALLOTTED;
    use super::*;

    #[derive(Debug)]
    struct Named;

    #[async_trait]
    impl Signer for Named {
        async fn sign(&self, _: Method, object: &StorePath, _: Duration) -> Result<String, object_store::Error> {
            Ok(object.to_string())
        }
    }

    fn blob(byte: u8) -> (Digest, Bytes) {
        let bytes = Bytes::from(vec![byte; DIRECT_BYTES_MIN as usize]);
        (Digest::of(&bytes), bytes)
    }

    #[tokio::test]
    async fn what_was_allotted_in_vain_takes_no_room_and_what_came_unseen_does() {
        let reach = Reach {
            addresses: true,
            folder: false,
        };
        let store = Arc::new(InMemory::new());
        let blobs = Blobs::over(store.clone(), "memory", 4 << 20).signed_by(Arc::new(Named));
        let blobs = blobs.with_addresses().unwrap().with_quota(2 << 20).await.unwrap();
        let [written, (vain, _), (further, bytes)] = [1, 2, 3].map(blob);
        for digest in [written.0, vain] {
            assert!(blobs.allot(&digest, 1 << 20, reach).await.unwrap().is_some());
        }
        store.put(&place(&written.0), written.1.into()).await.unwrap();
        assert!(!blobs.settle_expired(Instant::now()).await.unwrap(), "not yet");
        assert!(matches!(
            blobs.put(bytes.clone()).await,
            Err(BlobError::OverQuota { taken, .. }) if taken == 2 << 20
        ));

        let later = Instant::now() + ALLOTTED;
        assert!(blobs.settle_expired(later).await.unwrap());
        assert!(!blobs.settle_expired(later).await.unwrap(), "each is settled once");
        assert_eq!(blobs.put(bytes).await.unwrap(), further);
        let refused = blobs.put(Bytes::from_static(b"more")).await;
        assert!(
            matches!(refused, Err(BlobError::OverQuota { taken, .. }) if taken == 2 << 20),
            "the one that came is counted, seen or not"
        );
    }
}
