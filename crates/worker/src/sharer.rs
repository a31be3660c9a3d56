//! A worker that gives others what it keeps, and what of that the coordinator has heard.

use std::iter::repeat;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gavel_client::{Registered, Sharer, Shares, Sharing, SharingError, SharingTerms};
use gavel_core::hint::Hint as _;
use gavel_core::ids::Digest;
use tokio::sync::Mutex;

use crate::kept::Kept;

/// How long a worker waits before it looks again for the way to its coordinators.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A worker that shares what it keeps. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct KeptSharer {
    kept: Arc<Kept>,
    sharer: Arc<Sharer>,
    /// Whether the answer to the latest registration has come. Locked through each call whose answer says by what passes are known: none overtakes
    /// another.
    heard: Arc<Mutex<bool>>,
}

impl KeptSharer {
    /// Listens. Where it depends on the way to the coordinators, that is looked for as long as these: `within`, or for ever.
    pub(crate) async fn open(
        sharing: &Sharing,
        coordinators: &str,
        kept: Arc<Kept>,
        within: Option<Duration>,
    ) -> Result<Self, SharingError> {
        let began = Instant::now();
        let is_left = |pause: &Duration| within.is_none_or(|within| began.elapsed() + *pause < within);
        let open = || {
            let source = Arc::clone(&kept);
            Sharer::open(sharing, coordinators, move |blob: &Digest| source.peek(blob))
        };
        let sharer = persist(repeat(LOOK_AGAIN).take_while(is_left), open).await?;
        let Shares { address, .. } = sharer.shares();
        tracing::info!(address, "large blobs are shared with other workers");
        Ok(Self {
            kept,
            sharer: Arc::new(sharer),
            heard: Arc::default(),
        })
    }

    pub(crate) fn shares(&self) -> Shares {
        self.sharer.shares().clone()
    }

    /// Registers the worker by this call. What it keeps is unknown there from then on, whether or not the answer comes.
    pub(crate) async fn register<E>(&self, call: impl Future<Output = Result<Registered, E>>) -> Result<Registered, E> {
        let mut heard = self.heard.lock().await;
        *heard = false;
        self.kept.tell_all();
        let registered = call.await?;
        self.sharer.admit(registered.sharing.clone());
        *heard = true;
        Ok(registered)
    }

    /// Waits for something to tell, and tells it by `hold`: what is kept, and what is not any more. What is not heard waits for the next time.
    pub(crate) async fn tell<E, F>(&self, hold: impl Fn(Vec<Digest>, Vec<Digest>) -> F) -> Result<(), E>
    where
        F: Future<Output = Result<Option<SharingTerms>, E>>,
    {
        let (held, gone) = self.kept.changes().await;
        let mut heard = self.heard.lock().await;
        let told = async {
            if !*heard {
                // Nobody is to be sent here with a pass that is not known yet.
                self.sharer.admit(hold(Vec::new(), Vec::new()).await?);
                *heard = true;
            }
            let terms = hold(held.clone(), gone.clone()).await?;
            if self.sharer.admit(terms) {
                // A registration that nobody waited for any more has come through.
                self.kept.tell_all();
            }
            Ok(())
        };
        let told = told.await;
        if told.is_err() {
            self.kept.put_back(held, gone);
        }
        told
    }
}

/// Opens again after each pause as long as no way to a coordinator is found: its name, or the network, may be about to come.
async fn persist<T, F>(mut pauses: impl Iterator<Item = Duration>, open: impl Fn() -> F) -> Result<T, SharingError>
where
    F: Future<Output = Result<T, SharingError>>,
{
    loop {
        let opened = open().await;
        let Err(error @ SharingError::NoAddress { .. }) = &opened else {
            return opened;
        };
        let Some(pause) = pauses.next() else { return opened };
        tracing::warn!(%error, hint = error.hint(), "blobs are not shared yet");
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::{pending, ready};
    use std::io;

    use bytes::Bytes;
    use futures::FutureExt as _;
    use gavel_core::blob_store::DIRECT_BYTES_MIN;
    use gavel_core::work::SharingKey;
    use tokio::sync::oneshot;

    use super::*;

    /// One that keeps a blob.
    async fn sharer() -> (KeptSharer, Digest, Bytes) {
        let bytes: Bytes = vec![1; DIRECT_BYTES_MIN as usize].into();
        let digest = Digest::of(&bytes);
        let kept = Arc::new(Kept::new(bytes.len(), true));
        kept.keep(digest, &bytes);
        kept.share(digest, &bytes);
        let sharing = Sharing {
            listen: ([127, 0, 0, 1], 0).into(),
            advertised: None,
        };
        let sharer = KeptSharer::open(&sharing, "http://127.0.0.1:1", kept, None).await;
        (sharer.expect("it listens"), digest, bytes)
    }

    #[tokio::test]
    async fn a_coordinator_whose_name_is_not_known_yet_is_looked_for_and_nothing_else_is_waited_for() {
        let no_address = || SharingError::NoAddress {
            coordinators: "http://coordinator:1".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let taken = || SharingError::Listen {
            listen: ([127, 0, 0, 1], 1).into(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let pauses = || [Duration::ZERO; 2].into_iter();
        let looked = Cell::new(0);
        let after = |failures: u32, other: bool| {
            looked.set(0);
            let (looked, no_address, taken) = (&looked, &no_address, &taken);
            move || {
                looked.set(looked.get() + 1);
                ready(match looked.get() <= failures {
                    true if other => Err(taken()),
                    true => Err(no_address()),
                    false => Ok(()),
                })
            }
        };
        persist(pauses(), after(2, false)).await.expect("the name has come");
        let never = persist(pauses(), after(9, false)).await;
        assert!(matches!(never, Err(SharingError::NoAddress { .. })) && looked.get() == 3);
        let taken = persist(pauses(), after(9, true)).await;
        assert!(matches!(taken, Err(SharingError::Listen { .. })) && looked.get() == 1);
    }

    #[tokio::test]
    async fn a_worker_that_finds_no_way_to_a_coordinator_says_so_in_the_end() {
        let sharing = Sharing {
            listen: ([0, 0, 0, 0], 0).into(),
            advertised: None,
        };
        let kept = Arc::new(Kept::new(0, true));
        let nowhere = KeptSharer::open(&sharing, "http://nowhere.invalid:1", kept, Some(Duration::ZERO)).await;
        assert!(matches!(nowhere, Err(SharingError::NoAddress { .. })));
    }

    fn terms(key: u8) -> Option<SharingTerms> {
        let key = SharingKey::new([key; 32]);
        Some(SharingTerms { key, now_ms: 1 })
    }

    fn registered(key: u8) -> Result<Registered, ()> {
        Ok(Registered {
            heartbeat: Duration::from_secs(1),
            sharing: terms(key),
        })
    }

    type Told = (Vec<Digest>, Vec<Digest>);

    /// Has everything told that waits, by a coordinator that answers each time with this key.
    fn told(sharer: &KeptSharer, key: u8) -> Vec<Told> {
        let told = RefCell::new(Vec::new());
        let hold = |held, gone| {
            told.borrow_mut().push((held, gone));
            ready(Ok::<_, ()>(terms(key)))
        };
        while let Some(heard) = sharer.tell(hold).now_or_never() {
            heard.expect("heard");
        }
        told.into_inner()
    }

    #[tokio::test]
    async fn a_registration_whose_answer_is_lost_leaves_no_worker_with_a_key_of_before() {
        let (sharer, digest, bytes) = sharer().await;
        sharer.register(ready(registered(1))).await.expect("registered");
        let (all, nothing) = ((vec![digest], vec![]), (vec![], vec![]));
        assert_eq!(told(&sharer, 1), std::slice::from_ref(&all));

        sharer.register(ready(Err(()))).await.expect_err("the answer is lost");
        let unheard = sharer.tell(|_, _| ready(Err(()))).await;
        unheard.expect_err("the coordinator is away");
        let twice = [nothing, all.clone()];
        assert_eq!(told(&sharer, 2), twice, "nobody is sent here before the key is known");
        assert!(!sharer.sharer.admit(terms(2)), "it is known");
        let given_up = sharer.register(pending::<Result<_, ()>>());
        assert!(given_up.now_or_never().is_none());
        assert_eq!(told(&sharer, 3), twice);

        // One that nobody waited for comes through at last.
        sharer.kept.share(digest, &bytes);
        assert_eq!(told(&sharer, 4), [all.clone(), all], "the key is another one");
        assert!(!sharer.sharer.admit(terms(4)));
    }

    #[tokio::test]
    async fn no_answer_overtakes_another() {
        let (sharer, ..) = sharer().await;
        sharer.register(ready(registered(1))).await.expect("registered");
        let (answer, old) = oneshot::channel();
        let old = Cell::new(Some(old));
        let hold = |_, _| {
            let old = old.take().expect("asked once");
            async { Ok::<_, ()>(old.await.expect("answered")) }
        };
        let mut telling = Box::pin(sharer.tell(hold));
        assert!(telling.as_mut().now_or_never().is_none());
        let mut registering = Box::pin(sharer.register(async { registered(2) }));
        assert!(registering.as_mut().now_or_never().is_none(), "the older call is open");
        answer.send(terms(1)).expect("it waits");
        telling.await.expect("heard");
        registering.await.expect("registered");
        assert!(!sharer.sharer.admit(terms(2)), "the newer key is the one that is known");
    }
}
