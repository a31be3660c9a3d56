//! Calls that show no token, or one that does not allow them, are sent away before anything of them is read.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::connections::Connection;
use crate::access::{Access, Refusals, Refused, calls};

/// Puts [`Gate`] around a service.
#[derive(Debug, Clone)]
pub(super) struct GateLayer {
    access: Access,
    refusals: Refusals,
}

impl GateLayer {
    pub(super) fn new(access: Access, refusals: Refusals) -> Self {
        Self { access, refusals }
    }

    /// The request with what is granted to it, or the answer to it.
    fn check(&self, mut request: Request<Body>) -> Result<Request<Body>, Status> {
        let path = request.uri().path();
        let needed = calls::needed(path).ok_or_else(|| Status::unimplemented("there is no such method"))?;
        match self.access.check(request.headers(), needed) {
            Ok(granted) => {
                request.extensions_mut().insert(granted);
                Ok(request)
            }
            Err(refused) => {
                let peer = request.extensions().get::<Connection>().map(Connection::peer);
                self.refusals.tell(peer, path, &refused);
                Err(match refused {
                    Refused::NotEnough { .. } => Status::permission_denied(refused.to_string()),
                    Refused::NoToken | Refused::UnknownToken => Status::unauthenticated(refused.to_string()),
                })
            }
        }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            layer: self.clone(),
        }
    }
}

/// Lets those calls through that are granted what they need.
#[derive(Debug, Clone)]
pub(super) struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.layer.check(request) {
            Ok(request) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
