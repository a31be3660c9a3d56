//! What this program is: its version, the commit that it was built from where whoever built it said so, and what it can do.

use std::sync::LazyLock;

/// For `gavel --version`.
pub(crate) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let features = [
            ("cloud", cfg!(feature = "cloud")),
            ("cuda", cfg!(feature = "cuda")),
            ("nccl", cfg!(feature = "nccl")),
            ("postgres", cfg!(feature = "postgres")),
        ];
        let built: Vec<&str> = features
            .iter()
            .filter(|(_, built)| *built)
            .map(|(name, _)| *name)
            .collect();
        let features = match built.is_empty() {
            true => "none".to_owned(),
            false => built.join(", "),
        };
        let commit = option_env!("GAVEL_COMMIT").map_or_else(String::new, |commit| format!("commit {commit}, "));
        format!("{} ({commit}features: {features})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}
