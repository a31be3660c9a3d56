//! What every gRPC call passes on its way in and out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::calls;
use super::connections::Connection;
use super::incoming::{Incoming, RequestBudget};
use super::outgoing::Outgoing;

/// Calls that are open at a time, over all connections: several for each worker of the largest fleet.
const CALLS: usize = 65_536;

/// Puts [`Meter`] around a service.
#[derive(Clone)]
pub(super) struct MeterLayer {
    budget: RequestBudget,
    calls: Arc<Semaphore>,
}

impl MeterLayer {
    pub(super) fn new(budget: RequestBudget) -> Self {
        Self {
            budget,
            calls: Arc::new(Semaphore::new(CALLS)),
        }
    }
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Meter<S> {
        Meter {
            inner,
            layer: self.clone(),
        }
    }
}

/// Bounds what a call sends and what its answer holds.
#[derive(Clone)]
pub(super) struct Meter<S> {
    inner: S,
    layer: MeterLayer,
}

impl<S> Service<Request<Body>> for Meter<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Ok(call) = Arc::clone(&self.layer.calls).try_acquire_owned() else {
            let busy = Status::resource_exhausted(format!("{CALLS} calls are open: try again"));
            return Box::pin(async move { Ok(busy.into_http()) });
        };
        let connection = request.extensions().get::<Connection>().cloned();
        let asking = connection.as_ref().map(Connection::asks);
        let limits = calls::limits(request.uri().path());
        let mut taken = None;
        let request = request.map(|body| {
            let (body, has_taken) = Incoming::new(body, limits, self.layer.budget.clone());
            taken = Some(has_taken);
            Body::new(body)
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // The handler has done with the message that was put together.
            drop(taken);
            let (parts, body) = answer.into_parts();
            let body = Outgoing::new(body, &parts.extensions, connection, asking, Some(call));
            Ok(Response::from_parts(parts, Body::new(body)))
        })
    }
}
