//! The arguments of every command that takes a configuration.

use std::path::PathBuf;

use clap::Args;

/// A configuration with its overrides.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// Configuration file (TOML). Paths in it are relative to the current folder or, where nothing is there, to its own.
    #[arg(value_name = "CONFIG")]
    pub(crate) file: PathBuf,
    /// Override a key, for example --set run.seed=7. Wins over GAVEL__SECTION__KEY in the environment, which wins over the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}
