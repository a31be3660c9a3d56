//! Who a worker is, as its process knows it.

use gavel_core::ids::WorkerId;
use gavel_core::work::{Role, WorkerSecret};
use tonic::metadata::{Binary, MetadataValue};

/// A worker's role, name and secret. Clones are the same worker.
#[derive(Debug, Clone)]
pub struct Identity {
    role: Role,
    worker: WorkerId,
    secret: WorkerSecret,
}

impl Identity {
    /// Somebody new.
    pub fn random(role: Role) -> Self {
        let mut bytes = [0; WorkerSecret::BYTES];
        for half in bytes.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let secret = WorkerSecret::new(bytes);
        Self {
            role,
            worker: secret.name(role),
            secret,
        }
    }

    /// What it does.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its name.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    pub(crate) fn secret_for_the_wire(&self) -> MetadataValue<Binary> {
        let mut value = MetadataValue::from_bytes(self.secret.bytes());
        value.set_sensitive(true);
        value
    }
}
