//! Blobs read from the store, or from a worker that shares them, and written to the store, without the coordinator between, where it says where they lie.
//!
//! Nothing depends on this way: whatever goes wrong on it is told by a [`Problem`], the blob goes through the coordinator then, and a way
//! that keeps failing is left alone for a while. Bytes that are read are right by their hash, wherever they came from.

mod address;
mod arriving;
mod folder;
mod peer;
mod pinned;
mod retreat;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gavel_core::blob_store::direct_within;
use gavel_core::ids::Digest;
use gavel_proto::v1::location::At;
use gavel_proto::v1::{Failed, Location, Reach};

use address::Addresses;
pub(crate) use arriving::{Arrived, Arriving, Keep};
use folder::SharedFolder;
use peer::{PeerPlace, Peers};
use retreat::Retreat;

/// Why a blob was not read or written directly. No address is ever repeated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// What the coordinator says of the place cannot be used.
    #[error("the coordinator names a place that cannot be used: {0}")]
    Location(&'static str),
    /// The folder cannot be read or written.
    #[error("{}: the folder cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The folder is none of the coordinator's.
    #[error("{} is not the blob store of this coordinator: {found}, and the coordinator has {expected}", folder.display())]
    OtherStore {
        /// The folder.
        folder: PathBuf,
        /// The store that the coordinator has.
        expected: String,
        /// What the folder is instead.
        found: String,
    },
    /// The store, or the worker, was not reached.
    #[error("the address is not reached")]
    Unreached(#[source] reqwest::Error),
    /// The store, or the worker, answered with something else than what was asked for.
    #[error("the answer is {0}")]
    Answered(reqwest::StatusCode),
    /// It took too long.
    #[error("not done within {} s", .0.as_secs())]
    Slow(Duration),
    /// More or fewer bytes than the coordinator had said.
    #[error("{found} bytes arrived, and {expected} were to come")]
    Size {
        /// What the coordinator had said.
        expected: u64,
        /// What came, or the first number beyond.
        found: u64,
    },
    /// Other bytes.
    #[error("blob {expected} arrived as {found}")]
    Bytes {
        /// The blob.
        expected: Digest,
        /// The hash of what came.
        found: Digest,
    },
    /// The coordinator does not see what was written.
    #[error("the coordinator does not find blob {0}, which was written")]
    Unseen(Digest),
}

/// The ways past the coordinator.
#[derive(Debug)]
pub(crate) struct Direct {
    folder: Option<(SharedFolder, Retreat)>,
    addresses: (Addresses, Retreat),
    peers: (Peers, Retreat),
}

/// Where the coordinator says that a blob lies, or may be written.
pub(crate) struct Place {
    size: u64,
    at: Site,
}

/// The same, read.
enum Site {
    Address(String),
    FolderOf(String),
    Peer(PeerPlace),
}

impl Direct {
    /// By addresses, and by `folder` where this machine has the store's; `encrypted` where the coordinator is asked over TLS. `own` is the certificate under
    /// which this worker shares blobs itself.
    pub(crate) fn new(folder: Option<&Path>, encrypted: bool, own: Option<Digest>) -> Self {
        Self {
            folder: folder.map(|folder| (SharedFolder::new(folder), Retreat::default())),
            addresses: (Addresses::new(encrypted), Retreat::default()),
            peers: (Peers::new(own), Retreat::default()),
        }
    }

    /// What the coordinator is told: the ways that are not left alone. `None` when all are.
    pub(crate) fn reach(&self) -> Option<Reach> {
        let now = Instant::now();
        let reach = Reach {
            addresses: self.addresses.1.is_open(now),
            folder: self.folder.as_ref().is_some_and(|(_, retreat)| retreat.is_open(now)),
            peers: self.peers.1.is_open(now).then(|| self.peers.0.reach()),
        };
        (reach.addresses || reach.folder || reach.peers.is_some()).then_some(reach)
    }

    /// Reads a blob of which the coordinator said where it lies; `None` when that did not work.
    pub(crate) async fn read(&self, place: &Place, digest: Digest, keep: Keep) -> Option<Arrived> {
        let reading = async {
            match &place.at {
                Site::Address(address) => self.addresses.0.read(address, place.size, digest, keep).await,
                Site::FolderOf(store) => self.folder()?.read(store, place.size, digest, keep).await,
                Site::Peer(peer) => self.peers.0.read(peer, place.size, digest, keep).await,
            }
        };
        let read = within(place.size, reading).await;
        self.took(place, read)
    }

    /// Writes a blob where the coordinator said that it may be written, and asks by `confirm` whether the coordinator sees it there. Whether it
    /// is stored.
    pub(crate) async fn write<E>(
        &self,
        place: &Place,
        digest: Digest,
        bytes: &Bytes,
        confirm: impl Future<Output = Result<bool, E>>,
    ) -> bool {
        let writing = async {
            match &place.at {
                Site::Address(address) => self.addresses.0.write(address, bytes.clone()).await,
                Site::FolderOf(store) => self.folder()?.write(store, digest, bytes.clone()).await,
                Site::Peer(_) => Err(Problem::Location("a worker, which takes nothing")),
            }
        };
        if let Err(problem) = within(bytes.len() as u64, writing).await {
            self.took::<()>(place, Err(problem));
            return false;
        }
        match confirm.await {
            Ok(true) => self.took(place, Ok(())).is_some(),
            Ok(false) => self.took::<()>(place, Err(Problem::Unseen(digest))).is_some(),
            // Nobody says that it is there, and whoever sends it through the coordinator hears why.
            Err(_) => false,
        }
    }

    fn folder(&self) -> Result<&SharedFolder, Problem> {
        let folder = self.folder.as_ref().map(|(folder, _)| folder);
        folder.ok_or(Problem::Location("a folder, of which it was not told"))
    }

    /// Notes how a way did.
    fn took<T>(&self, place: &Place, done: Result<T, Problem>) -> Option<T> {
        let (way, retreat) = match (&place.at, &self.folder) {
            (Site::FolderOf(_), Some((_, retreat))) => ("folder", retreat),
            (Site::Peer(_), _) => ("worker", &self.peers.1),
            _ => ("address", &self.addresses.1),
        };
        match done {
            Ok(done) => {
                retreat.worked();
                Some(done)
            }
            Err(problem) => {
                retreat.failed(way, &problem, Instant::now());
                None
            }
        }
    }
}

impl Place {
    /// What the coordinator said; `None` where it says nothing that can be followed.
    pub(crate) fn told(location: Location) -> Option<Self> {
        let Location { size, at } = location;
        let at = match at? {
            At::Address(address) => Site::Address(address),
            At::FolderOf(store) => Site::FolderOf(store),
            At::Peer(peer) => Site::Peer(PeerPlace::told(&peer)?),
        };
        Some(Self { size, at })
    }

    /// What the coordinator is told where the blob was not read from there, if it has to know: also of a worker whose address
    /// cannot be followed.
    pub(crate) fn failed(location: &Location) -> Option<Failed> {
        match location.at.as_ref()? {
            At::Peer(peer) => Some(Failed {
                certificate: peer.certificate.clone(),
                pass: peer.pass.clone(),
            }),
            At::Address(_) | At::FolderOf(_) => None,
        }
    }
}

/// Bounds what is done with so many bytes: a file server that does not answer never fails by itself.
async fn within<T>(size: u64, done: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let limit = direct_within(size);
    tokio::time::timeout(limit, done)
        .await
        .unwrap_or(Err(Problem::Slow(limit)))
}
