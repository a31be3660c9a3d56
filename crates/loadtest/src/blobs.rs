//! Blobs that simulated workers fetch and store.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gavel_client::{Blobs, ConnectOptions, Connection};
use gavel_core::ids::Digest;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::fleet::CONNECT_WITHIN;

/// How simulated workers reach the blobs of a coordinator.
#[derive(Debug, Clone)]
pub struct BlobRoad {
    /// Where the coordinator listens, http://HOST:PORT.
    pub coordinator: String,
    /// The store's folder, for workers that go straight to it.
    pub folder: Option<PathBuf>,
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
    /// A worker with a connection of its own.
    async fn worker(&self) -> Result<Blobs, Error> {
        let options = ConnectOptions::new(&self.coordinator)?.connect_within(CONNECT_WITHIN);
        let blobs = Connection::open(&options).await?.blobs();
        Ok(match &self.folder {
            Some(folder) => blobs.directly(Some(folder)),
            None => blobs,
        })
    }

    /// Stores a blob of so many bytes, other ones for each number.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
    pub async fn store(&self, number: u64, size: u64) -> Result<Digest, Error> {
        let bytes = made_up(number, size);
        let digest = Digest::of(&bytes);
        let stored = self.worker().await?.put(digest, bytes).await;
        stored.map_err(refused("a blob"))?;
        Ok(digest)
    }

    /// Has so many workers fetch one blob at once and check its hash. They keep nothing of it: one machine would not have the memory of so many.
    /// Returns how long each took.
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
        for worker in connected {
            fetching.spawn(async move { worker.check(digest).await.map(|_| begun.elapsed()) });
        }
        let mut took = Vec::new();
        while let Some(fetched) = fetching.join_next().await {
            match fetched {
                Ok(fetched) => took.push(fetched.map_err(refused("a blob"))?),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        took.sort_unstable();
        Ok(took)
    }

    /// Stores the blobs of a step and fetches each as often as it is read.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Refused`].
    pub async fn step(&self, blobs: &[StepBlobs]) -> Result<(), Error> {
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
