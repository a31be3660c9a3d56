//! A simulated worker that fetches blobs, and gives what it has to others where it shares.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use gavel_client::{Blobs, Connection, Fleet, Identity, Introduction, Sharer, Sharing};
use gavel_core::ids::Digest;
use gavel_core::work::Role;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::worker::introduction;

/// The blob that it has; simulated workers of one process have it in memory once.
type Has = Arc<Mutex<Option<(Digest, Bytes)>>>;

/// A simulated worker that shares the latest blob that it has.
#[derive(Debug)]
pub(crate) struct Peer {
    fleet: Fleet,
    identity: Identity,
    has: Has,
    certificate: Digest,
    sharer: Sharer,
    #[expect(dead_code, reason = "held for its drop")]
    beating: AbortOnDropHandle<()>,
}

impl Peer {
    /// Listens on a free port of this machine, and registers.
    pub(crate) async fn register(connection: &Connection) -> Result<Self, Error> {
        let has = Has::default();
        let source = Arc::clone(&has);
        let source = move |blob: &Digest| {
            let has = source.lock().unwrap_or_else(PoisonError::into_inner);
            has.as_ref()
                .filter(|(digest, _)| digest == blob)
                .map(|(_, bytes)| bytes.clone())
        };
        let sharing = Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        };
        let sharer = Sharer::open(&sharing, connection.addresses(), source).await?;
        let fleet = connection.fleet();
        let identity = Identity::random(Role::Sampler);
        let introduction = Introduction {
            shares: Some(sharer.shares().clone()),
            ..introduction()
        };
        let registered = fleet.register(&identity, &introduction).await;
        let registered = registered.map_err(refused)?;
        sharer.admit(registered.sharing);
        let beating = tokio::spawn({
            let (fleet, identity) = (fleet.clone(), identity.clone());
            async move {
                loop {
                    tokio::time::sleep(registered.heartbeat).await;
                    // One that is missed is made good by the next.
                    let _ = fleet.heartbeat(&identity, &[], None).await;
                }
            }
        });
        Ok(Self {
            fleet,
            identity,
            has,
            certificate: sharer.shares().certificate,
            sharer,
            beating: AbortOnDropHandle::new(beating),
        })
    }

    /// The blobs, fetched by way of those who share them.
    pub(crate) fn blobs(&self, connection: &Connection) -> Blobs {
        connection.blobs().directly_as(None, Some(self.certificate))
    }

    /// Has this blob from now on, and says so.
    pub(crate) async fn hold(&self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        *self.has.lock().unwrap_or_else(PoisonError::into_inner) = Some((digest, bytes));
        let terms = self.fleet.hold(&self.identity, &[digest], &[]).await;
        self.sharer.admit(terms.map_err(refused)?);
        Ok(())
    }

    /// Leaves the fleet.
    pub(crate) async fn leave(self) -> Result<(), Error> {
        self.fleet.deregister(&self.identity).await.map_err(refused)
    }
}

fn refused(source: gavel_client::CallError) -> Error {
    Error::Refused {
        what: "a worker that shares blobs",
        source,
    }
}
