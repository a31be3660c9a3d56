//! Who a worker is.

use std::fmt;

use super::Role;
use crate::ids::{Digest, WorkerId};

/// Hexadecimal digits of a name: 80 bits, far more than anybody can try while a worker lives.
const DIGITS: usize = 20;

/// What a worker alone knows, made anew by each process. Its name is the fingerprint of role and secret: a coordinator that has
/// just started, or takes over, knows whom a name belongs to without having kept anything, and nobody can take the name of
/// another or turn up under it in another role.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerSecret([u8; Self::BYTES]);

impl WorkerSecret {
    /// How long a secret is.
    pub const BYTES: usize = 32;

    /// A secret of these bytes, which must come from a source of chance that nobody can foresee.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be shown to the coordinator and to nobody else.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The name of its worker in this role, such as `sampler-3f9a01c2b4d5e6f70812`.
    pub fn name(&self, role: Role) -> WorkerId {
        let told = [b"gavel worker ", role.name().as_bytes(), b" ", &self.0[..]].concat();
        let digest = Digest::of(&told).to_string();
        WorkerId(format!("{role}-{}", &digest[..DIGITS]))
    }

    /// The role in which this secret's worker has this name; `None` where the name is another's.
    pub fn role_of(&self, worker: &WorkerId) -> Option<Role> {
        Role::ALL.into_iter().find(|role| self.name(*role) == *worker)
    }
}

/// Never shows it.
impl fmt::Debug for WorkerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_secret_in_one_role() {
        let (own, other) = (WorkerSecret::new([1; 32]), WorkerSecret::new([2; 32]));
        let name = own.name(Role::Judge);
        assert!(name.0.starts_with("judge-"), "{name}");
        assert_eq!(own.role_of(&name), Some(Role::Judge));
        assert_eq!(other.role_of(&name), None);
        assert_ne!(
            own.name(Role::Trainer).0.trim_start_matches("trainer"),
            name.0.trim_start_matches("judge")
        );
        assert_eq!(own.role_of(&WorkerId(name.0.replace("judge", "trainer"))), None);
    }

    #[test]
    fn a_secret_is_never_written() {
        let secret = WorkerSecret::new([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "WorkerSecret(..)");
    }
}
