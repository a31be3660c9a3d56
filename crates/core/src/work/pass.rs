//! What lets its bearer fetch one blob from one worker.

use std::fmt;

use hmac::digest::Key;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::ids::Digest;

/// What the coordinator and one worker that shares blobs know: by it the worker tells the coordinator's passes from anything else.
#[derive(Clone)]
pub struct SharingKey([u8; Self::BYTES]);

/// A code over a blob's name and the end of its time, with the key of the worker that is to give the blob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    until_ms: u64,
    code: [u8; CODE_BYTES],
}

/// HMAC-SHA256.
const CODE_BYTES: usize = 32;

impl SharingKey {
    /// How long a key is.
    pub const BYTES: usize = 32;

    /// A key of these bytes, which must come from a source of chance that nobody can foresee.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one worker whose key it is.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A pass for this blob until `until_ms`, in milliseconds as the coordinator counts them.
    pub fn pass(&self, blob: &Digest, until_ms: u64) -> Pass {
        let code = self.code(blob, until_ms).finalize().into_bytes();
        Pass {
            until_ms,
            code: code.into(),
        }
    }

    /// Whether this pass is for this blob and of this key, whenever its time ends. Takes as long for a wrong code as for the right one.
    pub fn made(&self, pass: &Pass, blob: &Digest) -> bool {
        self.code(blob, pass.until_ms).verify_slice(&pass.code).is_ok()
    }

    /// Whether this pass opens this blob at this time.
    pub fn admits(&self, pass: &Pass, blob: &Digest, now_ms: u64) -> bool {
        self.made(pass, blob) && now_ms <= pass.until_ms
    }

    fn code(&self, blob: &Digest, until_ms: u64) -> Hmac<Sha256> {
        // HMAC fills a key up with zeros to the length of a block.
        let mut key = Key::<Hmac<Sha256>>::default();
        key[..Self::BYTES].copy_from_slice(&self.0);
        let mut code = Hmac::<Sha256>::new(&key);
        code.update(b"gavel pass ");
        code.update(&blob.0);
        code.update(&until_ms.to_be_bytes());
        code
    }
}

impl Pass {
    /// How long a pass is.
    pub const BYTES: usize = 8 + CODE_BYTES;

    /// As it travels: the end of its time, big-endian, then the code.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.until_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.code);
        bytes
    }

    /// Reads what [`Pass::to_bytes`] wrote; `None` for any other length.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (until, code) = bytes.split_first_chunk()?;
        Some(Self {
            until_ms: u64::from_be_bytes(*until),
            code: code.try_into().ok()?,
        })
    }
}

/// Never shows it.
impl fmt::Debug for SharingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharingKey(..)")
    }
}

/// Never shows it.
impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_opens_one_blob_at_one_worker_until_its_time_ends() {
        let (key, other) = (SharingKey::new([1; 32]), SharingKey::new([2; 32]));
        let (blob, another) = (Digest::of(b"blob"), Digest::of(b"another"));
        let pass = Pass::read(&key.pass(&blob, 1_000).to_bytes()).expect("a pass");
        assert!(key.admits(&pass, &blob, 0) && key.admits(&pass, &blob, 1_000));
        assert!(
            !key.admits(&pass, &blob, 1_001) && key.made(&pass, &blob),
            "its time has ended"
        );
        assert!(!key.made(&pass, &another) && !other.made(&pass, &blob));
    }

    #[test]
    fn no_changed_byte_opens_anything() {
        let key = SharingKey::new([1; 32]);
        let blob = Digest::of(b"blob");
        let bytes = key.pass(&blob, 1_000).to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 1;
            let changed = Pass::read(&changed).expect("as long as a pass");
            assert!(!key.made(&changed, &blob), "byte {at}");
        }
        for length in [0, 7, 8, Pass::BYTES - 1] {
            assert_eq!(Pass::read(&bytes[..length]), None);
        }
        assert_eq!(Pass::read(&[0; Pass::BYTES + 1]), None);
    }

    #[test]
    fn the_code_is_hmac_sha256_as_others_compute_it() {
        // python3 -c 'import hmac; print(hmac.new(bytes([1])*32, b"gavel pass " + bytes([7])*32 + (1000).to_bytes(8, "big"), "sha256").hexdigest())'
        let pass = SharingKey::new([1; 32]).pass(&Digest([7; 32]), 1_000);
        assert_eq!(
            hex::encode(&pass.to_bytes()[8..]),
            "2f89f3faaf53e41d91c03c281c3a95fcd3b4d2d8207ef96fea1faed434241213"
        );
    }

    #[test]
    fn neither_key_nor_pass_is_ever_written() {
        let key = SharingKey::new([0xab; 32]);
        let told = format!("{key:?} {:?}", key.pass(&Digest::of(b"blob"), 1));
        assert_eq!(told, "SharingKey(..) Pass(..)");
    }
}
