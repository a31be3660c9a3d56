//! A blob whose bytes arrive in pieces, and are hashed while they do.

use bytes::{Bytes, BytesMut};
use gavel_core::ids::Digest;
use sha2::Digest as _;

use super::Problem;

/// Bytes that are made room for before they have come: a size that somebody says is no reason to take more.
const ROOM_MAX: u64 = 256 << 20;

/// Whether somebody wants a blob's bytes, or only to know that they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The bytes.
    All,
    /// Their number.
    Nothing,
}

/// A blob that arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    hash: sha2::Sha256,
    size: u64,
    /// `None` where nobody wants them.
    bytes: Option<BytesMut>,
}

/// A blob that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) found: Digest,
    pub(crate) size: u64,
    /// Empty where nobody wants them.
    pub(crate) bytes: Bytes,
}

impl Arriving {
    /// A blob of about so many bytes; 0 where nobody has said.
    pub(crate) fn new(keep: Keep, size: u64) -> Self {
        // Bounded, so it fits.
        let room = size.min(ROOM_MAX) as usize;
        Self {
            hash: sha2::Sha256::new(),
            size: 0,
            bytes: (keep == Keep::All).then(|| BytesMut::with_capacity(room)),
        }
    }

    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        self.size += piece.len() as u64;
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(piece);
        }
    }

    /// As [`Arriving::add`], of a blob whose size is known.
    pub(super) fn add_within(&mut self, piece: &[u8], expected: u64) -> Result<(), Problem> {
        self.add(piece);
        match self.size <= expected {
            true => Ok(()),
            false => Err(Problem::Size {
                expected,
                found: self.size,
            }),
        }
    }

    /// What has come, whatever its hash.
    pub(crate) fn finish(self) -> Arrived {
        Arrived {
            found: Digest(self.hash.finalize().into()),
            size: self.size,
            bytes: self.bytes.unwrap_or_default().freeze(),
        }
    }

    /// What has come, if that is the blob.
    pub(super) fn finish_as(self, digest: Digest, expected: u64) -> Result<Arrived, Problem> {
        let arrived = self.finish();
        if arrived.size != expected {
            let found = arrived.size;
            return Err(Problem::Size { expected, found });
        }
        if arrived.found != digest {
            return Err(Problem::Bytes {
                expected: digest,
                found: arrived.found,
            });
        }
        Ok(arrived)
    }
}
