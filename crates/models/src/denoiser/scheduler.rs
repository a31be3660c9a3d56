//! The noise levels that a pipeline folder prescribes.

use std::path::Path;

use serde::Deserialize;

use crate::{LoadError, ModelError, load::read_config};

/// The part of `scheduler_config.json` that a sigma schedule needs, under diffusers' names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SchedulerConfig {
    /// Constant shift of the schedule.
    #[serde(default = "one")]
    pub shift: f64,
    /// Whether the shift depends on the number of image tokens.
    #[serde(default)]
    pub use_dynamic_shifting: bool,
    /// Dynamic shift at `base_image_seq_len` tokens.
    #[serde(default = "base_shift")]
    pub base_shift: f64,
    /// Dynamic shift at `max_image_seq_len` tokens.
    #[serde(default = "max_shift")]
    pub max_shift: f64,
    /// Image tokens of the smallest images.
    #[serde(default = "base_image_seq_len")]
    pub base_image_seq_len: usize,
    /// Image tokens of the largest images.
    #[serde(default = "max_image_seq_len")]
    pub max_image_seq_len: usize,
    /// Timesteps that the range of sigmas is divided into.
    #[serde(default = "num_train_timesteps")]
    pub num_train_timesteps: usize,
    /// The last noise level before 0, to which the schedule is stretched; `None` and 0 leave it as it is.
    #[serde(default)]
    pub shift_terminal: Option<f64>,
    /// What the dynamic shift does to a noise level.
    #[serde(default)]
    pub time_shift_type: TimeShift,
    #[serde(default)]
    use_karras_sigmas: bool,
    #[serde(default)]
    use_exponential_sigmas: bool,
    #[serde(default)]
    use_beta_sigmas: bool,
    #[serde(default)]
    invert_sigmas: bool,
}

/// How a dynamic shift mu moves a noise level s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeShift {
    /// e^mu / (e^mu + 1 / s - 1).
    #[default]
    Exponential,
    /// mu / (mu + 1 / s - 1).
    Linear,
}

fn one() -> f64 {
    1.0
}

fn base_shift() -> f64 {
    0.5
}

fn max_shift() -> f64 {
    1.15
}

fn base_image_seq_len() -> usize {
    256
}

fn max_image_seq_len() -> usize {
    4096
}

fn num_train_timesteps() -> usize {
    1000
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json` of a pipeline's `scheduler` folder.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for a schedule that is not computed, and those of [`read_config`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let file = dir.join("scheduler_config.json");
        let config: Self = read_config(&file)?;
        let refused = |key: &str, found: String, expected: &str| {
            Err(LoadError::Unsupported {
                file: file.clone(),
                key: key.to_owned(),
                found,
                expected: expected.to_owned(),
            })
        };
        for (key, on) in [
            ("use_karras_sigmas", config.use_karras_sigmas),
            ("use_exponential_sigmas", config.use_exponential_sigmas),
            ("use_beta_sigmas", config.use_beta_sigmas),
            ("invert_sigmas", config.invert_sigmas),
        ] {
            if on {
                return refused(key, "true".to_owned(), "false");
            }
        }
        if let Some(terminal) = config.shift_terminal.filter(|terminal| !(0.0..1.0).contains(terminal)) {
            return refused(
                "shift_terminal",
                terminal.to_string(),
                "a number from 0 to below 1, or null",
            );
        }
        if config.max_image_seq_len <= config.base_image_seq_len {
            let found = config.max_image_seq_len.to_string();
            let expected = format!("more than `base_image_seq_len`, {}", config.base_image_seq_len);
            return refused("max_image_seq_len", found, &expected);
        }
        Ok(config)
    }

    /// The noise levels of `steps` steps as the pipelines make them for a picture of `target_tokens` packed tokens: `steps`
    /// falling numbers that start at 1, and 0. Source pictures do not count among the tokens.
    ///
    /// # Errors
    /// [`ModelError::Value`] for no steps, for a single one where the schedule is stretched, which would have to be 1 and
    /// `shift_terminal` at once, and where the settings make no falling schedule.
    ///
    /// # Source
    /// diffusers 0.42: `FlowMatchEulerDiscreteScheduler.set_timesteps`, given the sigmas and the shift by which
    /// the FLUX and Qwen-Image pipelines call it. Deviation: in float64.
    pub fn sigmas(&self, steps: usize, target_tokens: usize) -> Result<Vec<f64>, ModelError> {
        let refused = |problem: String| ModelError::Value {
            input: "steps",
            problem,
        };
        let terminal = self.shift_terminal.filter(|terminal| *terminal != 0.0);
        match (steps, terminal) {
            (0, _) => return Err(refused("0; at least one step is needed".to_owned())),
            (1, Some(terminal)) => {
                let problem = format!("1; a schedule that ends at `shift_terminal` {terminal} needs at least 2 steps");
                return Err(refused(problem));
            }
            _ => {}
        }
        let count = steps as f64;
        let mut sigmas: Vec<f64> = (0..steps)
            .map(|step| 1.0 - step as f64 * (1.0 - 1.0 / count) / (count - 1.0).max(1.0))
            .map(|sigma| self.shifted(sigma, target_tokens))
            .collect();
        if let (Some(terminal), Some(last)) = (terminal, sigmas.last().copied()) {
            let stretch = (1.0 - terminal) / (1.0 - last);
            for sigma in &mut sigmas {
                *sigma = 1.0 - (1.0 - *sigma) * stretch;
            }
        }
        sigmas.push(0.0);
        if sigmas.windows(2).all(|pair| pair[0] > pair[1]) {
            Ok(sigmas)
        } else {
            let problem =
                format!("{steps} for {target_tokens} tokens: the scheduler's settings give no falling schedule");
            Err(refused(problem))
        }
    }

    fn shifted(&self, sigma: f64, target_tokens: usize) -> f64 {
        if !self.use_dynamic_shifting {
            return self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma);
        }
        let (first, last) = (self.base_image_seq_len as f64, self.max_image_seq_len as f64);
        let slope = (self.max_shift - self.base_shift) / (last - first);
        let mu = self.base_shift + (target_tokens as f64 - first) * slope;
        let shift = match self.time_shift_type {
            TimeShift::Exponential => mu.exp(),
            TimeShift::Linear => mu,
        };
        shift / (shift + 1.0 / sigma - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The settings that all Qwen-Image folders are published with.
    const QWEN_IMAGE: &str = r#"{"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": true, "base_shift": 0.5,
        "max_shift": 0.9, "base_image_seq_len": 256, "max_image_seq_len": 8192, "shift_terminal": 0.02,
        "time_shift_type": "exponential", "stochastic_sampling": false, "invert_sigmas": false,
        "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false}"#;

    fn read(settings: &str) -> Result<SchedulerConfig, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("scheduler_config.json"), settings).unwrap();
        SchedulerConfig::read(dir.path())
    }

    fn assert_schedule(config: &SchedulerConfig, tokens: usize, expected: &[f64]) {
        let found = config.sigmas(expected.len() - 1, tokens).unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn qwen_image_schedules_end_at_the_terminal_level_for_every_size() {
        let config = read(QWEN_IMAGE).unwrap();
        let ten = [
            1.0, 0.928970, 0.851485, 0.766624, 0.673281, 0.570117, 0.455497, 0.327400, 0.183300, 0.02, 0.0,
        ];
        assert_schedule(&config, 1024, &ten);
        assert_schedule(&config, 1024, &[1.0, 0.749268, 0.432588, 0.02, 0.0]);
        let small = [
            1.0, 0.926094, 0.846004, 0.758920, 0.663883, 0.559751, 0.445155, 0.318433, 0.177552, 0.02, 0.0,
        ];
        assert_schedule(&config, 16, &small);
    }

    #[test]
    fn steps_that_make_no_schedule_are_refused() {
        let config = read(QWEN_IMAGE).unwrap();
        for steps in [0, 1] {
            let error = config.sigmas(steps, 1024).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`steps`: {steps}; ")), "{error}");
        }
        // Without the stretch one step is a schedule.
        assert_eq!(read("{}").unwrap().sigmas(1, 1024).unwrap(), [1.0, 0.0]);
        assert!(read("{\"shift\": -3.0}").unwrap().sigmas(4, 1024).is_err());
    }

    #[test]
    fn settings_that_are_not_computed_are_refused_by_name() {
        for (key, value) in [
            ("use_karras_sigmas", "true"),
            ("use_exponential_sigmas", "true"),
            ("use_beta_sigmas", "true"),
            ("invert_sigmas", "true"),
            ("shift_terminal", "1.0"),
            ("shift_terminal", "-0.1"),
            ("max_image_seq_len", "256"),
        ] {
            let error = read(&format!("{{\"{key}\": {value}}}")).unwrap_err();
            assert!(
                matches!(&error, LoadError::Unsupported { key: found, .. } if found == key),
                "{error}"
            );
        }
        let error = read("{\"time_shift_type\": \"cosine\"}").unwrap_err();
        assert!(
            matches!(&error, LoadError::Config { key, .. } if key == "time_shift_type"),
            "{error}"
        );
    }
}
