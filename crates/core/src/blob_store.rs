//! How a blob store is laid out, for the coordinator that keeps it and for those who reach its folder.

use std::time::Duration;

use serde::Deserialize;

use crate::ids::Digest;

/// The file by which a store knows its ledger.
pub const IDENTITY: &str = "identity.json";

/// From this size in bytes on a blob goes straight to the store where somebody reaches it. A smaller one takes one call through the
/// coordinator; at 1 Gbit/s this one takes 8 ms, which is about what it takes to ask a cloud store for anything.
pub const DIRECT_BYTES_MIN: u64 = 1 << 20;

/// How long a blob of this size in bytes may take past the coordinator, by the slowest way that is worth it; the coordinator's is there, too.
pub fn direct_within(size: u64) -> Duration {
    const BYTES_PER_SECOND: u64 = 2 << 20;
    Duration::from_secs(30 + size / BYTES_PER_SECOND)
}

/// What stands in [`IDENTITY`] beside how far the ledger reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoreMark {
    /// The ledger's name, by which the store is told from every other.
    pub ledger: String,
}

/// Where a blob lies within its store: two digits of its name, then the rest.
pub fn path(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{}/{}", &name[..2], &name[2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_whole_name_and_one_folder() {
        let path = path(&Digest([0xab; 32]));
        assert_eq!(path, format!("ab/{}", "ab".repeat(31)));
    }

    #[test]
    fn a_mark_is_read_whatever_else_stands_in_it() {
        let mark: StoreMark = serde_json::from_str(r#"{"ledger":"x","sole":true,"runs":{"a":[1]}}"#).unwrap();
        assert_eq!(mark.ledger, "x");
    }
}
