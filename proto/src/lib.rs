//! The wire: types and services generated from gavel/v1/*.proto (`tests/generated.rs` does it), and their conversion to and from the core's types.
//!
//! Generated types stop at the door: servers and clients convert them with [`convert`] and hand core types inward.

#![forbid(unsafe_code)]

pub mod convert;

/// Messages, clients and servers of package `gavel.v1`.
#[expect(
    clippy::allow_attributes,
    missing_docs,
    reason = "generated; the .proto files document what needs it"
)]
pub mod v1 {
    include!("generated/gavel.v1.rs");
}

pub use convert::Malformed;

/// Version of the fleet protocol. A worker registers with its own, and the coordinator refuses any other.
pub const PROTOCOL_VERSION: u32 = 11;

/// The binary metadata in which a worker's calls carry its secret.
pub const SECRET_METADATA: &str = "gavel-worker-secret-bin";

/// The largest message either way: a submitted run carries every prompt. Clients and servers both keep to it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The size of the chunks in which blobs travel: large enough to be cheap, far below any bound on a message.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The compiled .proto files, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/gavel.v1.bin");
