//! Between the wire and the core: total outwards, checked inwards.

mod assignment;
mod kept;
mod outcome;
mod rally;
mod unit;
mod usage;

#[cfg(test)]
mod tests;

pub use assignment::encoded_len;

use gavel_core::Hint;
use gavel_core::bounds::{Bound, Exceeded, InvalidName};
use gavel_core::ids::Digest;

/// A message that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field that must be there is not.
    #[error("field `{field}` is missing")]
    Missing {
        /// The field, as `Message.field`.
        field: &'static str,
    },
    /// A digest of another length.
    #[error("field `{field}` must hold the 32 bytes of a SHA-256, found {found} bytes")]
    Digest {
        /// The field, as `Message.field`.
        field: &'static str,
        /// Its length.
        found: usize,
    },
    /// A number that the field's meaning does not allow, or an enum value that this version does not know.
    #[error("field `{field}` cannot be {found}")]
    Range {
        /// The field, as `Message.field`.
        field: &'static str,
        /// What it holds.
        found: i64,
    },
    /// A text that names no device.
    #[error("field `{field}` names no device; expected \"cpu\", \"cpu:candle\" or \"cuda:N\"")]
    Device {
        /// The field, as `Message.field`.
        field: &'static str,
    },
    /// More of something than is taken.
    #[error(transparent)]
    TooMuch(#[from] Exceeded),
    /// A text that is no name.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Hint for Malformed {
    fn hint(&self) -> Option<String> {
        match self {
            Self::TooMuch(exceeded) => exceeded.hint(),
            _ => Some("check that coordinator and workers have the same version".into()),
        }
    }
}

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing { field })
}

fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, Malformed> {
    bytes.try_into().map(Digest).map_err(|_| Malformed::Digest {
        field,
        found: bytes.len(),
    })
}

fn digests(all: &[Vec<u8>], field: &'static str) -> Result<Vec<Digest>, Malformed> {
    all.iter().map(|bytes| digest(bytes, field)).collect()
}

fn optional_digest(bytes: Option<&[u8]>, field: &'static str) -> Result<Option<Digest>, Malformed> {
    bytes.map(|bytes| digest(bytes, field)).transpose()
}

fn bytes(digest: Digest) -> Vec<u8> {
    digest.0.to_vec()
}

fn all<W, C: TryFrom<W, Error = Malformed>>(wire: Vec<W>) -> Result<Vec<C>, Malformed> {
    wire.into_iter().map(C::try_from).collect()
}

/// As [`all`], of a list that is refused where it is longer than the bound.
fn few<W, C: TryFrom<W, Error = Malformed>>(wire: Vec<W>, bound: Bound, field: &str) -> Result<Vec<C>, Malformed> {
    bound.check(field, wire.len())?;
    all(wire)
}

fn each<C, W: From<C>>(core: Vec<C>) -> Vec<W> {
    core.into_iter().map(W::from).collect()
}
