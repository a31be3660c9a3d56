//! The other way round: a coordinator that sends a worker what no worker takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::RunAssets;
use gavel_core::ids::RunId;
use gavel_core::spec::RunSpec;
use gavel_core::work::{Assignment, Outcome, Role, Unit};
use gavel_proto::MESSAGE_BYTES_MAX;
use gavel_proto::v1::fleet_server::{Fleet, FleetServer};
use gavel_worker::{Work, WorkContext, WorkError, WorkerOptions};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::stranger::v1;

/// Answers the first request for work with a message that no worker takes, and sends the worker home at the second.
#[derive(Default)]
struct Careless {
    asked: AtomicUsize,
}

type Answer<T> = Result<Response<T>, Status>;

fn is_not_asked<T>() -> Answer<T> {
    Err(Status::unimplemented(
        "this coordinator knows the beginning and the end",
    ))
}

#[tonic::async_trait]
impl Fleet for Careless {
    async fn register(&self, _: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        Ok(Response::new(v1::RegisterResponse {
            worker_id: "anybody".to_owned(),
            heartbeat_interval_ms: 60_000,
            sharing: None,
        }))
    }

    async fn heartbeat(&self, _: Request<v1::HeartbeatRequest>) -> Answer<v1::HeartbeatResponse> {
        Ok(Response::new(v1::HeartbeatResponse::default()))
    }

    async fn lease(&self, _: Request<v1::LeaseRequest>) -> Answer<v1::LeaseResponse> {
        let is_first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
        let group = v1::Group {
            rendezvous: vec![0; MESSAGE_BYTES_MAX + 1],
            ..v1::Group::default()
        };
        let call = is_first.then(|| v1::Call {
            group: Some(group),
            ..v1::Call::default()
        });
        Ok(Response::new(v1::LeaseResponse {
            drain: call.is_none(),
            call,
            ..v1::LeaseResponse::default()
        }))
    }

    async fn complete(&self, _: Request<v1::CompleteRequest>) -> Answer<v1::CompleteResponse> {
        is_not_asked()
    }

    async fn fail(&self, _: Request<v1::FailRequest>) -> Answer<v1::FailResponse> {
        is_not_asked()
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        is_not_asked()
    }

    async fn rally(&self, _: Request<v1::RallyRequest>) -> Answer<v1::RallyResponse> {
        is_not_asked()
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Answer<v1::JoinResponse> {
        is_not_asked()
    }

    async fn recall_verdicts(&self, _: Request<v1::RecallVerdictsRequest>) -> Answer<v1::RecallVerdictsResponse> {
        is_not_asked()
    }

    async fn keep_verdicts(&self, _: Request<v1::KeepVerdictsRequest>) -> Answer<v1::KeepVerdictsResponse> {
        is_not_asked()
    }

    async fn hold(&self, _: Request<v1::HoldRequest>) -> Answer<v1::HoldResponse> {
        is_not_asked()
    }

    async fn deregister(&self, _: Request<v1::DeregisterRequest>) -> Answer<v1::DeregisterResponse> {
        Ok(Response::new(v1::DeregisterResponse::default()))
    }
}

struct Idle;

impl Work for Idle {
    fn prepare(&mut self, _: &RunId, _: &RunSpec, _: &RunAssets) -> Result<(), WorkError> {
        Ok(())
    }

    fn perform(&mut self, unit: &Unit, _: &Assignment, _: &WorkContext) -> Result<Outcome, WorkError> {
        Err(WorkError::Fatal(format!("nobody leases {unit} here")))
    }
}

// Such a lease ended every sampler that got it, one after the other, with the advice to install another version.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_larger_than_a_worker_takes_costs_the_lease_and_not_the_worker() {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let careless = Arc::new(Careless::default());
    let fleet = FleetServer::from_arc(Arc::clone(&careless)).max_encoding_message_size(usize::MAX);
    let served = tonic::transport::Server::builder()
        .add_service(fleet)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(served);

    let options = WorkerOptions::new(address.to_string(), [Role::Sampler], "cpu");
    let ended = gavel_worker::run(options, Idle, CancellationToken::new()).await;
    ended.expect("it asks again, and leaves when it is told to");
    assert_eq!(careless.asked.load(Ordering::SeqCst), 2);
    server.abort();
}
