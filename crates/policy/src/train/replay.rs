//! One update offline, from recorded trajectories and a file of rewards.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use gavel_core::{
    ids::PromptIndex,
    spec::{ObjectiveSpec, OptimizerSpec},
    work::{ShardStatistics, SkippedPair},
};
use gavel_models::{denoiser::ActivationMemory, lora::LoraAdapter};
use serde_json::Value;

use super::{
    Deviation, Error, GradientSettings, Group, OptimizerState, PolicyState, RewardedTrajectory, Trainer, Updated,
    gradient_file, update,
};
use crate::{ConditioningFile, trajectory::Trajectory};

/// Name of the optimizer state in a folder that [`Replayed::save`] wrote.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// What an update depends on besides policy, trajectories and rewards.
#[derive(Debug, Clone)]
pub struct ReplaySettings {
    /// The loss. `ignore_last` leaves out the last sampling step even where it carries noise.
    pub objective: ObjectiveSpec,
    /// The optimizer. A single update is no part of a schedule: `learning_rate` applies as it is.
    pub optimizer: OptimizerSpec,
    /// What a forward keeps.
    pub memory: ActivationMemory,
    /// |ratio - 1| above which the first term that deviates is named.
    pub ratio_deviation: f64,
}

/// The result of an update.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The new policy.
    pub state: PolicyState,
    /// The mean gradient before clipping, in the adapter's flat order.
    pub gradient: Vec<f32>,
    /// Sums over the terms.
    pub statistics: ShardStatistics,
    /// Trajectories whose loss or gradient was not finite; `prompt` is their index among those given.
    pub skipped: Vec<SkippedPair>,
    /// The first term whose ratio is not 1 within the bound; with the adapter that sampled, there is none.
    pub deviation: Option<Deviation>,
    /// Norm of the mean gradient before clipping.
    pub grad_norm: f64,
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{file}: cannot {action}")]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// `read` or `write`.
    pub action: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Performs one RPO update: gradient of all trajectories' trained steps, divided by their number, then one optimizer step.
/// Every step with noise is trained, but for the last one of the schedule where `objective.ignore_last` says so.
///
/// # Errors
/// [`Error`]; trajectories without noise, of different schedules, or none at all, are refused.
pub fn replay(
    trainer: &Trainer,
    state: &PolicyState,
    trajectories: Vec<Trajectory>,
    rewards: &[f64],
    settings: &ReplaySettings,
) -> Result<Replayed, Error> {
    if trajectories.len() != rewards.len() || trajectories.is_empty() {
        let problem = format!("{} rewards for {} trajectories", rewards.len(), trajectories.len());
        return Err(Error::Rewards { problem });
    }
    check_alike(&trajectories)?;
    let first = &trajectories[0];
    let last = first.extents.steps - usize::from(settings.objective.ignore_last);
    let timesteps: Vec<usize> = (0..first.metadata.noise_steps.min(last)).collect();
    if timesteps.is_empty() {
        let noise_steps = first.metadata.noise_steps;
        return Err(Error::NoNoise {
            trajectory: "the first trajectory".into(),
            noise_steps,
            timestep: 0,
        });
    }
    let groups: Vec<Group> = trajectories
        .into_iter()
        .zip(rewards)
        .enumerate()
        .map(|(index, (trajectory, reward))| Group {
            prompt_index: PromptIndex(index as u32),
            candidates: vec![RewardedTrajectory {
                trajectory,
                reward: *reward,
            }],
        })
        .collect();
    let gradient_settings = GradientSettings {
        objective: &settings.objective,
        timesteps,
        memory: settings.memory,
        ratio_deviation: settings.ratio_deviation,
    };
    let (optimizer, whole) = (&settings.optimizer, groups.len());
    let updated = update(
        trainer,
        state,
        &groups,
        &gradient_settings,
        whole,
        optimizer,
        optimizer.learning_rate,
    )?;
    let Updated {
        state,
        gradient: Some(gradient),
        statistics,
        skipped,
        deviation,
        grad_norm,
    } = updated
    else {
        return Err(Error::GradientNotFinite { norm: f64::NAN });
    };
    Ok(Replayed {
        state,
        gradient,
        statistics,
        skipped,
        deviation,
        grad_norm,
    })
}

/// Refuses trajectories of more than one schedule: the steps to train are those of the first.
fn check_alike(trajectories: &[Trajectory]) -> Result<(), Error> {
    let settings = |trajectory: &Trajectory| {
        let metadata = &trajectory.metadata;
        [
            ("steps", trajectory.extents.steps.to_string()),
            ("noise_steps", metadata.noise_steps.to_string()),
            ("sde", format!("{:?}", metadata.sde).to_lowercase()),
            ("eta", metadata.eta.to_string()),
            ("shift", metadata.shift.to_string()),
        ]
    };
    let Some(first) = trajectories.first().map(settings) else {
        return Ok(());
    };
    for (index, trajectory) in trajectories.iter().enumerate() {
        let differs = settings(trajectory).into_iter().zip(&first);
        if let Some(((setting, found), (_, first))) = differs.into_iter().find(|(found, first)| found != *first) {
            return Err(Error::Mixed {
                trajectory: format!("trajectory {}", index + 1),
                setting,
                found,
                first: first.clone(),
            });
        }
    }
    Ok(())
}

impl Replayed {
    /// Writes the adapter (PEFT layout) and [`OPTIMIZER_FILE`] beside it; where an average is kept, it goes to `averaged/`.
    ///
    /// # Errors
    /// What the system says, with the file.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        self.state.adapter.save(dir)?;
        write(&dir.join(OPTIMIZER_FILE), &self.state.optimizer.to_safetensors())?;
        if let Some(averaged) = self.state.averaged()? {
            averaged.save(&dir.join("averaged"))?;
        }
        Ok(())
    }

    /// Writes the mean gradient before clipping: PEFT tensor names, float32.
    ///
    /// # Errors
    /// What the system says, with the file.
    pub fn save_gradients(&self, file: &Path) -> Result<(), Error> {
        write(
            file,
            &gradient_file::write(&self.state.adapter, &self.gradient, self.statistics.terms, "mean"),
        )
    }
}

/// Reads the optimizer state beside an adapter, if there is one; else a fresh state.
///
/// # Errors
/// [`Error::File`] for a damaged file, [`Error::Io`] when it cannot be read.
pub fn optimizer_beside(dir: &Path, adapter: &LoraAdapter, averages: bool) -> Result<OptimizerState, Error> {
    let file = dir.join(OPTIMIZER_FILE);
    match fs::read(&file) {
        Ok(bytes) => OptimizerState::from_safetensors(&bytes).map_err(Error::in_file(file.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(OptimizerState::fresh(adapter, averages)),
        Err(source) => Err(FileError {
            file,
            action: "read",
            source,
        }
        .into()),
    }
}

/// Reads a trajectory file, and where it only names its conditioning also that: beside it under its hash, or in the store of
/// blobs of which the trajectory is one.
///
/// # Errors
/// [`Error::File`] for a damaged file, [`Error::Io`] when it cannot be read, [`Error::ConditioningAway`].
pub fn read_trajectory(file: &Path) -> Result<Trajectory, Error> {
    let trajectory = Trajectory::from_safetensors(&read(file)?).map_err(Error::in_file(file.display().to_string()))?;
    let Some(conditioning) = trajectory.metadata.conditioning else {
        return Ok(trajectory);
    };
    let name = conditioning.to_string();
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut places = [folder.join(&name), folder.join("..").join(&name[..2]).join(&name[2..])].into_iter();
    let Some(place) = places.find(|place| place.is_file()) else {
        let trajectory = file.display().to_string();
        return Err(Error::ConditioningAway {
            trajectory,
            conditioning,
        });
    };
    let conditioning =
        ConditioningFile::from_safetensors(&read(&place)?).map_err(Error::in_file(place.display().to_string()))?;
    Ok(trajectory.with_conditioning(&conditioning.tensors))
}

fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(file).map_err(|source| FileError {
        file: file.to_owned(),
        action: "read",
        source,
    })
}

/// Reads a rewards file: `{"rewards": [r, ..]}` in the order of the trajectories, or `{"rewards": {"file name": r, ..}}`
/// with the file name of each trajectory, without folders.
///
/// # Errors
/// [`Error::Rewards`] when it is not of this form, a reward is missing, left over or not finite.
pub fn parse_rewards(json: &str, trajectories: &[PathBuf]) -> Result<Vec<f64>, Error> {
    let fault = |problem: String| Error::Rewards { problem };
    let file: Value = serde_json::from_str(json).map_err(|error| fault(error.to_string()))?;
    let number = |value: &Value| match value.as_f64() {
        Some(reward) => Ok(reward),
        None => Err(fault(format!("`{value}` is not a number"))),
    };
    let rewards = match file
        .as_object()
        .filter(|keys| keys.len() == 1)
        .and_then(|keys| keys.get("rewards"))
    {
        Some(Value::Array(rewards)) if rewards.len() == trajectories.len() => {
            rewards.iter().map(number).collect::<Result<Vec<f64>, Error>>()?
        }
        Some(Value::Array(rewards)) => {
            return Err(fault(format!(
                "{} rewards for {} trajectories",
                rewards.len(),
                trajectories.len()
            )));
        }
        Some(Value::Object(named)) => {
            let names: Vec<_> = trajectories
                .iter()
                .map(|file| file.file_name().unwrap_or_default().to_string_lossy())
                .collect();
            let mut distinct = BTreeSet::new();
            if let Some(name) = names.iter().find(|name| !distinct.insert(*name)) {
                return Err(fault(format!(
                    "two trajectories are called `{name}`; give the rewards in order"
                )));
            }
            if let Some(name) = named.keys().find(|name| !names.iter().any(|known| known == *name)) {
                return Err(fault(format!("a reward for `{name}`, which is no trajectory")));
            }
            let reward = |name| match named.get(name) {
                Some(reward) => number(reward),
                None => Err(fault(format!("no reward for `{name}`"))),
            };
            names
                .iter()
                .map(|name| reward(name.as_ref()))
                .collect::<Result<_, _>>()?
        }
        _ => {
            return Err(fault(
                "expected an object with the one key `rewards`, an array or an object".into(),
            ));
        }
    };
    // JSON has no NaN, but a number such as 1e999 reads as infinite in some parsers.
    match rewards.iter().find(|reward| !reward.is_finite()) {
        Some(reward) => Err(fault(format!("{reward} is not finite"))),
        None => Ok(rewards),
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(file, bytes).map_err(|source| {
        FileError {
            file: file.to_owned(),
            action: "write",
            source,
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_CONDITIONING: &[u8] = include_bytes!("../../tests/data/trajectory-v1.safetensors");

    #[test]
    fn a_conditioning_that_a_trajectory_names_is_read_beside_it_and_among_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let mut trajectory = Trajectory::from_safetensors(WITH_CONDITIONING).unwrap();
        let conditioning = ConditioningFile {
            family: trajectory.metadata.family,
            encoders: trajectory.metadata.model,
            prompt: trajectory.metadata.prompt.clone(),
            sources: Vec::new(),
            tensors: trajectory.conditioning.clone(),
        };
        let conditioning = conditioning.to_safetensors();
        let digest = gavel_core::ids::Digest::of(&conditioning);
        trajectory.metadata.conditioning = Some(digest);
        let store = |place: PathBuf, bytes: &[u8]| {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, bytes).unwrap();
            place
        };
        let file = store(folder.path().join("00/11"), &trajectory.to_safetensors());
        let away = read_trajectory(&file).unwrap_err();
        assert!(
            matches!(away, Error::ConditioningAway { conditioning, .. } if conditioning == digest),
            "{away}"
        );
        let name = digest.to_string();
        for place in [
            folder.path().join(&name[..2]).join(&name[2..]),
            folder.path().join("00").join(&name),
        ] {
            let place = store(place, &conditioning);
            assert_eq!(read_trajectory(&file).unwrap(), trajectory);
            fs::remove_file(place).unwrap();
        }
    }

    #[test]
    fn rewards_come_in_order_or_by_name() {
        let files = [PathBuf::from("out/a.safetensors"), PathBuf::from("out/b.safetensors")];
        assert_eq!(parse_rewards(r#"{"rewards": [1, -0.1]}"#, &files).unwrap(), [1.0, -0.1]);
        let named = r#"{"rewards": {"b.safetensors": -0.1, "a.safetensors": 1}}"#;
        assert_eq!(parse_rewards(named, &files).unwrap(), [1.0, -0.1]);
    }

    #[test]
    fn rewards_that_do_not_fit_are_refused() {
        let files = [PathBuf::from("a"), PathBuf::from("b")];
        let check = |json: &str, expected: &str| {
            let error = parse_rewards(json, &files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(r#"{"rewards": [1]}"#, "1 rewards for 2 trajectories");
        check(r#"{"rewards": {"a": 1}}"#, "no reward for `b`");
        check(r#"{"rewards": {"a": 1, "b": 1, "c": 1}}"#, "a reward for `c`");
        check(r#"{"rewards": [1, "x"]}"#, "`\"x\"` is not a number");
        let twins = [PathBuf::from("a/one"), PathBuf::from("b/one")];
        let error = parse_rewards(r#"{"rewards": {"one": 1}}"#, &twins)
            .unwrap_err()
            .to_string();
        assert!(error.contains("two trajectories are called `one`"), "{error}");
        assert_eq!(parse_rewards(r#"{"rewards": [1, 2]}"#, &twins).unwrap(), [1.0, 2.0]);
        check(r#"{"reward": [1, 2]}"#, "the one key `rewards`");
        check("[1, 2]", "the one key `rewards`");
        check("[1, 2", "EOF");
    }
}
