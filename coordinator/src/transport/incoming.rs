//! The body of a request: not more bytes than its call may send, within its time, and all requests together within a budget.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

use super::calls::CallLimits;

/// Bytes of requests that are in memory at a time, over all connections.
const BUDGET_BYTES: usize = 72 << 20;

/// The memory that requests share. Clones share it too.
#[derive(Debug, Clone)]
pub(super) struct RequestBudget(Arc<Semaphore>);

impl RequestBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }
}

/// A body that is refused as soon as it is too much. What it has of the budget it keeps until its call is answered: messages are
/// put together in memory.
pub(super) struct Incoming<B> {
    body: B,
    left: Option<usize>,
    limits: CallLimits,
    deadline: Pin<Box<Sleep>>,
    budget: RequestBudget,
    taken: Taken,
}

/// What a request has of the budget, shared by its body and its call.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<std::sync::Mutex<Option<OwnedSemaphorePermit>>>);

impl Taken {
    fn add(&self, permit: OwnedSemaphorePermit) {
        let mut taken = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *taken {
            Some(taken) => taken.merge(permit),
            None => *taken = Some(permit),
        }
    }
}

impl<B> Incoming<B> {
    pub(super) fn new(body: B, limits: CallLimits, budget: RequestBudget) -> (Self, Taken) {
        let taken = Taken::default();
        let body = Self {
            body,
            left: limits.bytes,
            limits,
            deadline: Box::pin(tokio::time::sleep(limits.within)),
            budget,
            taken: taken.clone(),
        };
        (body, taken)
    }

    fn take(&mut self, bytes: &Bytes) -> Result<(), Status> {
        let (Some(left), Some(most)) = (self.left, self.limits.bytes) else {
            return Ok(());
        };
        let length = bytes.len();
        // Memory for the whole message is taken as soon as its length is known.
        let announced = if left == most { announced(bytes) } else { 0 };
        if length > left || announced > most {
            return Err(Status::invalid_argument(format!(
                "the request is larger than {most} bytes, the most that this call may send"
            )));
        }
        self.left = Some(left - length);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.0).try_acquire_many_owned(length);
        let permit = permit.map_err(|_| Status::resource_exhausted("too many large requests at once: try again"))?;
        self.taken.add(permit);
        Ok(())
    }
}

/// The length of the message that these bytes begin: gRPC puts it into four bytes after a flag.
fn announced(bytes: &Bytes) -> usize {
    let length = bytes.get(1..5).and_then(|length| length.try_into().ok());
    length.map_or(0, |length| u32::from_be_bytes(length) as usize)
}

impl<B> Body for Incoming<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |bytes| self.take(bytes));
                Poll::Ready(Some(taken.map(|()| frame)))
            }
            Poll::Pending if self.left.is_some() && self.deadline.as_mut().poll(cx).is_ready() => {
                let seconds = self.limits.within.as_secs();
                Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                    "the request did not arrive within {seconds} s"
                )))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_message_is_read_before_the_message() {
        assert_eq!(announced(&Bytes::from_static(&[0, 0, 1, 0, 2, 9, 9])), (1 << 16) + 2);
        assert_eq!(announced(&Bytes::from_static(&[0, 0, 1])), 0);
    }
}
