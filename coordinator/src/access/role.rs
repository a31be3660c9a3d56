//! The roles of tokens, and what each may do.

use std::fmt;
use std::str::FromStr;

use gavel_core::work::Role;
use serde::{Deserialize, Serialize};

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// All.
    Admin,
    /// Hand runs in, stop them, let them go on, drain the fleet; and all that a viewer may do.
    Submitter,
    /// Look at runs, their pictures and the metrics.
    Viewer,
    /// Take part in the fleet as a worker of any role.
    Worker,
    /// Take part as a sampler.
    Sampler,
    /// Take part as a judge.
    Judge,
    /// Take part as a trainer.
    Trainer,
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: whoever reaches the port may ask.
    Nothing,
    /// Some token: blobs and specifications, which people and workers read.
    Read,
    /// To store blobs, as workers and those do who hand in runs.
    Store,
    /// To look at runs.
    View,
    /// To change runs.
    Submit,
    /// To take part in the fleet.
    Work,
}

/// Not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role of a token: {list} are", list = TokenRole::ALL.map(TokenRole::name).join(", "))]
pub struct UnknownRole(String);

impl TokenRole {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Admin,
        Self::Submitter,
        Self::Viewer,
        Self::Worker,
        Self::Sampler,
        Self::Judge,
        Self::Trainer,
    ];

    /// Its name in files and arguments.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Submitter => "submitter",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
            Self::Sampler => "sampler",
            Self::Judge => "judge",
            Self::Trainer => "trainer",
        }
    }

    /// Whether its holder may do what needs this.
    pub const fn allows(self, needed: Permission) -> bool {
        use Permission::{Nothing, Read, Store, Submit, View, Work};
        match self {
            Self::Admin => true,
            Self::Submitter => matches!(needed, Nothing | Read | Store | View | Submit),
            Self::Viewer => matches!(needed, Nothing | Read | View),
            Self::Worker | Self::Sampler | Self::Judge | Self::Trainer => {
                matches!(needed, Nothing | Read | Store | Work)
            }
        }
    }

    /// Whether its holder may take part as a worker of this role.
    pub fn works_as(self, role: Role) -> bool {
        match self {
            Self::Admin | Self::Worker => true,
            Self::Submitter | Self::Viewer => false,
            Self::Sampler => role == Role::Sampler,
            Self::Judge => role == Role::Judge,
            Self::Trainer => role == Role::Trainer,
        }
    }
}

/// With its article, for sentences.
impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let article = if *self == Self::Admin { "an" } else { "a" };
        write!(f, "{article} {}", self.name())
    }
}

impl FromStr for TokenRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let named = Self::ALL.into_iter().find(|role| role.name() == text);
        named.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// The roles that have it, for sentences.
impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no token",
            Self::Read => "a token of any role",
            Self::Store => "a worker, a submitter or an admin",
            Self::View => "a viewer, a submitter or an admin",
            Self::Submit => "a submitter or an admin",
            Self::Work => "a worker or an admin",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_by_its_name_and_others_are_refused_with_the_list() {
        for role in TokenRole::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        let refused = "root".parse::<TokenRole>().unwrap_err().to_string();
        assert!(refused.contains("admin, submitter, viewer, worker"), "{refused}");
    }

    #[test]
    fn a_worker_of_one_role_is_none_of_another() {
        assert!(TokenRole::Judge.works_as(Role::Judge) && !TokenRole::Judge.works_as(Role::Trainer));
        assert!(Role::ALL.iter().all(|role| TokenRole::Worker.works_as(*role)));
        assert!(!TokenRole::Submitter.works_as(Role::Sampler));
    }
}
