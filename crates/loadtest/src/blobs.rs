//! Blobs that simulated workers fetch and store.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gavel_client::{Blobs, ConnectOptions, Connection};
use gavel_core::ids::Digest;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::fleet::CONNECT_WITHIN;
use crate::peer::Peer;

/// How simulated workers reach the blobs of a coordinator.
#[derive(Debug)]
pub struct BlobRoad {
    /// Where the coordinator listens, http://HOST:PORT.
    coordinator: String,
    way: BlobWay,
    /// The worker that stored the latest blob, with the blob, where it shares it.
    storer: Option<(Peer, Bytes)>,
}

/// Which way large blobs take.
#[derive(Debug, Clone)]
pub enum BlobWay {
    /// Through the coordinator.
    Coordinator,
    /// Straight to the store and from it, in its folder.
    Folder(PathBuf),
    /// Through the coordinator to be stored, and from worker to worker from there on.
    Workers,
}

/// Blobs of one kind in a step: each is stored once.
#[derive(Debug, Clone, Copy)]
pub struct StepBlobs {
    /// What they are.
    pub what: &'static str,
    /// How many.
    pub count: u32,
    /// The size of each in bytes.
    pub size: u64,
    /// How many workers fetch each.
    pub readers: u32,
}

impl BlobRoad {
    /// For workers of this coordinator.
    pub fn new(coordinator: impl Into<String>, way: BlobWay) -> Self {
        Self {
            coordinator: coordinator.into(),
            way,
            storer: None,
        }
    }

    /// A worker with a connection of its own.
    async fn worker(&self) -> Result<(Blobs, Option<Peer>), Error> {
        let options = ConnectOptions::new(&self.coordinator)?.connect_within(CONNECT_WITHIN);
        let connection = Connection::open(&options).await?;
        Ok(match &self.way {
            BlobWay::Coordinator => (connection.blobs(), None),
            BlobWay::Folder(folder) => (connection.blobs().directly(Some(folder)), None),
            BlobWay::Workers => {
                let peer = Peer::register(&connection).await?;
                (peer.blobs(&connection), Some(peer))
            }
        })
    }

    /// Stores a blob of so many bytes, other ones for each number.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
    pub async fn store(&mut self, number: u64, size: u64) -> Result<Digest, Error> {
        let bytes = made_up(number, size);
        let digest = Digest::of(&bytes);
        let (blobs, peer) = self.worker().await?;
        let stored = blobs.put(digest, bytes.clone()).await;
        stored.map_err(refused("a blob"))?;
        if let Some((earlier, _)) = self.storer.take() {
            earlier.leave().await?;
        }
        if let Some(peer) = peer {
            peer.hold(digest, bytes.clone()).await?;
            self.storer = Some((peer, bytes));
        }
        Ok(digest)
    }

    /// Has so many workers fetch the blob that was stored last, all at once, and check its hash. They keep nothing of it: one machine would not have the
    /// memory of so many. Those that share it have one copy together. Returns how long each took.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
    pub async fn fetch(&self, digest: Digest, workers: u32) -> Result<Vec<Duration>, Error> {
        let mut connected = Vec::new();
        for _ in 0..workers {
            connected.push(self.worker().await?);
        }
        let begun = Instant::now();
        let mut fetching = JoinSet::new();
        for (blobs, peer) in connected {
            let copy = self.storer.as_ref().map(|(_, bytes)| bytes.clone());
            fetching.spawn(async move {
                blobs.check(digest).await.map_err(refused("a blob"))?;
                let took = begun.elapsed();
                if let (Some(peer), Some(copy)) = (&peer, copy) {
                    peer.hold(digest, copy).await?;
                }
                Ok::<_, Error>((took, peer))
            });
        }
        let mut took = Vec::new();
        let mut peers = Vec::new();
        while let Some(fetched) = fetching.join_next().await {
            match fetched {
                Ok(fetched) => {
                    let (seconds, peer) = fetched?;
                    took.push(seconds);
                    peers.extend(peer);
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        for peer in peers {
            peer.leave().await?;
        }
        took.sort_unstable();
        Ok(took)
    }

    /// Stores the blobs of a step and fetches each as often as it is read.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
    pub async fn step(&mut self, blobs: &[StepBlobs]) -> Result<(), Error> {
        let mut number = 0;
        for kind in blobs {
            for _ in 0..kind.count {
                number += 1;
                let digest = self.store(number, kind.size).await?;
                self.fetch(digest, kind.readers).await?;
            }
        }
        Ok(())
    }
}

fn refused(what: &'static str) -> impl Fn(gavel_client::CallError) -> Error {
    move |source| Error::Refused { what, source }
}

/// Bytes that differ from blob to blob.
fn made_up(number: u64, size: u64) -> Bytes {
    let seed = Digest::of(&number.to_le_bytes()).0;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut bytes = seed.repeat(size.div_ceil(seed.len()));
    bytes.truncate(size);
    bytes.into()
}
