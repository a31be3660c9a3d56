//! Which worker a call is from.

use gavel_core::ids::WorkerId;
use gavel_core::work::{Role, WorkerSecret};
use gavel_proto::{SECRET_METADATA, v1};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use crate::access::Granted;

/// The worker that a call is from. Whoever holds one has seen the secret that its name belongs to.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) worker: WorkerId,
    pub(super) role: Role,
}

/// A message that says which worker sends it.
pub(super) trait FromWorker {
    fn worker_id(&self) -> &str;
}

macro_rules! from_worker {
    ($($message:ident)*) => {
        $(impl FromWorker for v1::$message {
            fn worker_id(&self) -> &str {
                &self.worker_id
            }
        })*
    };
}

from_worker! {
    HeartbeatRequest LeaseRequest CompleteRequest FailRequest ReleaseRequest RallyRequest JoinRequest
    RecallVerdictsRequest KeepVerdictsRequest HoldRequest DeregisterRequest
}

/// The message, and the worker that it is from beyond doubt.
pub(super) fn read<T: FromWorker>(request: Request<T>) -> Result<(Caller, T), Status> {
    let secret = secret(request.metadata())?;
    let (_, extensions, message) = request.into_parts();
    let worker = WorkerId(message.worker_id().to_owned());
    match secret.role_of(&worker) {
        Some(role) => {
            check_role(&extensions, role)?;
            Ok((Caller { worker, role }, message))
        }
        None => Err(Status::unauthenticated(
            "the call names a worker that its secret does not belong to",
        )),
    }
}

/// Sends away a worker whose token is for another role.
pub(super) fn check_role(extensions: &Extensions, role: Role) -> Result<(), Status> {
    match extensions.get::<Granted>() {
        Some(granted) if granted.works_as(role) => Ok(()),
        _ => Err(Status::permission_denied(format!(
            "the token does not let its holder work as a {role}: this call needs a token of the role {role}, worker or admin"
        ))),
    }
}

/// The secret that a call carries.
pub(super) fn secret(metadata: &MetadataMap) -> Result<WorkerSecret, Status> {
    let bytes = metadata
        .get_bin(SECRET_METADATA)
        .and_then(|value| value.to_bytes().ok());
    let secret = bytes
        .and_then(|bytes| bytes.as_ref().try_into().ok())
        .map(WorkerSecret::new);
    secret.ok_or_else(|| {
        let length = WorkerSecret::BYTES;
        Status::unauthenticated(format!(
            "the call carries no worker's secret: {length} bytes in `{SECRET_METADATA}`"
        ))
    })
}
