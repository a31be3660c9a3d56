//! The memory that bytes on their way may take, over all connections: whoever finds no room waits a little, and is then told to
//! come back. The sizes add up to what a coordinator may use at most, whatever anybody sends or leaves unread (docs/security.md).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::incoming::RequestBudget;

/// The largest piece in which a blob is sent.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
/// Pieces of blobs that are in memory at a time, read and not sent yet.
const PIECES: usize = 192;
/// Submissions that are read and written at a time.
const SUBMISSIONS: usize = 1;
/// Descriptions of runs that are made or on their way at a time. Each may have the texts of the largest run, several times over.
const SPECS: usize = 2;
/// Histories of runs that are read and sent at a time, a few rows of each.
const HISTORIES: usize = 2;
/// States of runs and lists that are made or on their way at a time.
const ANSWERS: usize = 8;
/// Callers that are told of each change of a run.
const WATCHERS: usize = 512;
/// Browsers that follow a state over HTTP; others ask again and again.
const STREAMS: usize = 64;
/// Uploads that are received at a time, and those that wait for their turn.
const UPLOADS: usize = 16;
const UPLOADS_WAITING: usize = 64;
/// Of those the ones that are larger than [`SMALL_UPLOAD_BYTES`]: they are written in parts of several MiB.
const LARGE_UPLOADS: usize = 3;
const SMALL_UPLOAD_BYTES: u64 = 1 << 20;
/// How long somebody waits for room.
const PATIENCE: Duration = Duration::from_secs(30);

/// There is no room at the moment. Worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is busy with other requests of this kind: try again")]
pub(crate) struct Busy;

/// The rooms of one coordinator. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    pieces: Arc<Semaphore>,
    submissions: Arc<Semaphore>,
    specs: Arc<Semaphore>,
    histories: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    uploads_waiting: Arc<Semaphore>,
    large_uploads: Arc<Semaphore>,
    pub(super) requests: RequestBudget,
}

impl Rooms {
    pub(crate) fn new() -> Self {
        let room = |places| Arc::new(Semaphore::new(places));
        Self {
            pieces: room(PIECES),
            submissions: room(SUBMISSIONS),
            specs: room(SPECS),
            histories: room(HISTORIES),
            answers: room(ANSWERS),
            watchers: room(WATCHERS),
            streams: room(STREAMS),
            uploads: room(UPLOADS),
            uploads_waiting: room(UPLOADS_WAITING),
            large_uploads: room(LARGE_UPLOADS),
            requests: RequestBudget::new(),
        }
    }

    /// Room for a download. To be put into the extensions of the answer, whose body then takes room for each piece.
    pub(crate) async fn download(&self) -> Result<Pace, Busy> {
        let first = enter(&self.pieces).await?;
        Ok(Pace {
            pieces: Arc::clone(&self.pieces),
            first: Arc::new(Mutex::new(Some(first))),
        })
    }

    /// Room for a submission.
    pub(crate) async fn submission(&self) -> Result<Kept, Busy> {
        Kept::of_room(&self.submissions).await
    }

    /// Room for a run's description. To be put into the extensions of the answer, which keeps it until it is sent.
    pub(crate) async fn spec(&self) -> Result<Kept, Busy> {
        Kept::of_room(&self.specs).await
    }

    /// As [`Rooms::spec`], for a run's history.
    pub(crate) async fn history(&self) -> Result<Kept, Busy> {
        Kept::of_room(&self.histories).await
    }

    /// As [`Rooms::spec`], for states of runs and lists.
    pub(crate) async fn answer(&self) -> Result<Kept, Busy> {
        Kept::of_room(&self.answers).await
    }

    /// A place among those who are told of changes.
    pub(crate) fn watcher(&self) -> Result<OwnedSemaphorePermit, Busy> {
        Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| Busy)
    }

    /// A place among those who follow a state over HTTP. To be put into the extensions of the answer: a caller who does not read loses it.
    pub(crate) fn stream(&self) -> Result<Kept, Busy> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Busy)?;
        Ok(Kept {
            _permit: Arc::new(permit),
            room: Arc::clone(&self.streams),
        })
    }

    /// Room for an upload.
    pub(crate) async fn upload(&self) -> Result<UploadRoom, Busy> {
        let waiting = Arc::clone(&self.uploads_waiting).try_acquire_owned();
        let waiting = waiting.map_err(|_| Busy)?;
        let small = enter(&self.uploads).await?;
        drop(waiting);
        Ok(UploadRoom {
            rooms: self.clone(),
            _small: small,
            large: None,
        })
    }

    /// Whether somebody waits to upload.
    fn uploads_wait(&self) -> bool {
        self.uploads_waiting.available_permits() < UPLOADS_WAITING || self.large_uploads.available_permits() == 0
    }
}

async fn enter(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Busy> {
    match timeout(PATIENCE, Arc::clone(room).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Busy),
    }
}

/// An answer that takes room until it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    room: Arc<Semaphore>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Kept {
    async fn of_room(room: &Arc<Semaphore>) -> Result<Self, Busy> {
        Ok(Self {
            _permit: Arc::new(enter(room).await?),
            room: Arc::clone(room),
        })
    }

    /// Makes the answer, to its end even where the caller hangs up: what was asked for takes memory until then, and so it takes
    /// room.
    pub(crate) async fn fill<T: Send + 'static>(
        self,
        make: impl Future<Output = T> + Send + 'static,
    ) -> Result<(T, Self), Busy> {
        let made = tokio::spawn(async move { (make.await, self) });
        // It is never cancelled; a panic has been told of already.
        made.await.map_err(|_| Busy)
    }

    /// The room that the answer has a part of.
    pub(super) fn of(&self) -> Arc<Semaphore> {
        Arc::clone(&self.room)
    }
}

/// A download takes room for each piece before it is read.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub(super) pieces: Arc<Semaphore>,
    first: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Pace {
    /// The room that the download began with, once.
    pub(super) fn first(&self) -> Option<OwnedSemaphorePermit> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What an upload has of the memory.
#[derive(Debug)]
pub(crate) struct UploadRoom {
    rooms: Rooms,
    _small: OwnedSemaphorePermit,
    large: Option<OwnedSemaphorePermit>,
}

impl UploadRoom {
    /// Takes the room that so many bytes need.
    pub(crate) async fn hold(&mut self, bytes: u64) -> Result<(), Busy> {
        if bytes > SMALL_UPLOAD_BYTES && self.large.is_none() {
            self.large = Some(enter(&self.rooms.large_uploads).await?);
        }
        Ok(())
    }

    /// Waits for the next part of the upload: a minute, or less while others wait for the room. `None` when it did not come.
    pub(crate) async fn next<T>(&self, part: impl Future<Output = T>) -> Option<T> {
        const QUIET: Duration = Duration::from_secs(5);
        const TURNS: u32 = 12;
        let mut part = std::pin::pin!(part);
        for _ in 0..TURNS {
            if let Ok(part) = timeout(QUIET, &mut part).await {
                return Some(part);
            }
            if self.rooms.uploads_wait() {
                break;
            }
        }
        None
    }
}
