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

/// How many workers there are, instead of what the configuration says.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct FleetArguments {
    /// Samplers, instead of fleet.samplers.
    #[arg(long, value_name = "N")]
    pub(crate) samplers: Option<u32>,
    /// Judges, instead of fleet.judges.
    #[arg(long, value_name = "N")]
    pub(crate) judges: Option<u32>,
    /// Trainers, instead of fleet.trainers.
    #[arg(long, value_name = "N")]
    pub(crate) trainers: Option<u32>,
}

impl FleetArguments {
    /// The same as `--set` says it, after these.
    pub(super) fn after(self, overrides: &[String]) -> Vec<String> {
        let counts = [
            ("samplers", self.samplers),
            ("judges", self.judges),
            ("trainers", self.trainers),
        ];
        let of_fleet = counts
            .into_iter()
            .filter_map(|(key, count)| Some(format!("fleet.{key}={}", count?)));
        overrides.iter().cloned().chain(of_fleet).collect()
    }
}
