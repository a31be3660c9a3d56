//! Whether a trajectory is the one that was asked for.

use gavel_core::{
    ids::{Candidate, Digest, PromptIndex, Step},
    noise::Use,
    spec::RunSpec,
    work::rules::CandidateNoise,
};

use crate::trajectory::Trajectory;

/// Which candidate a trajectory must be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The step.
    pub step: Step,
    /// Index of the prompt in it.
    pub prompt_index: PromptIndex,
    /// Index of the candidate among its prompt's.
    pub candidate: Candidate,
}

/// Checks that a trajectory is finite, says that it is of this candidate, and starts from the noise that the candidate's key
/// gives: a sampler with another seed, another key or another generator is found out here.
///
/// # Errors
/// What differs, in words.
pub fn check(trajectory: &Trajectory, spec: &RunSpec, wanted: Wanted) -> Result<(), String> {
    let metadata = &trajectory.metadata;
    let found = (metadata.seed, metadata.step, metadata.prompt_index, metadata.candidate);
    let expected = (spec.run.seed, wanted.step.0, wanted.prompt_index.0, wanted.candidate.0);
    if found != expected {
        return Err(format!(
            "a trajectory is of (seed, step, prompt, candidate) {found:?}, asked for was {expected:?}"
        ));
    }
    let tensors = [
        ("latents", &trajectory.latents),
        ("log_probs", &trajectory.log_probs),
        ("velocities", &trajectory.velocities),
    ];
    for (name, values) in tensors {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!("a trajectory's `{name}` holds {} at {index}", values[index]));
        }
    }
    let noise_of = CandidateNoise {
        seed: spec.run.seed,
        step: wanted.step,
        prompt_index: wanted.prompt_index,
        candidate: wanted.candidate,
    };
    let key = noise_of.initial(Use::Initial, spec.sampling.shared_noise);
    let noise = key.normal(trajectory.extents.latent_size());
    if trajectory.latent(0) != noise {
        return Err("a trajectory does not start from the noise of its key".into());
    }
    Ok(())
}

/// Checks that a trajectory names the conditioning that its group was given, or holds its own where the group was given none.
///
/// # Errors
/// What differs, in words.
pub fn check_conditioning(trajectory: &Trajectory, given: Option<Digest>) -> Result<(), String> {
    let found = trajectory.metadata.conditioning;
    if found == given {
        return Ok(());
    }
    let name = |conditioning: Option<Digest>| conditioning.map_or("none".to_owned(), |digest| digest.to_string());
    Err(format!(
        "a trajectory names the conditioning {}, its group {}",
        name(found),
        name(given)
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gavel_core::{noise::NoiseKey, rpo::Sde};
    use gavel_models::{Family, denoiser::Grid};

    use super::*;
    use crate::trajectory::{Extents, HostConditioning, TrajectoryMetadata};

    const WANTED: Wanted = Wanted {
        step: Step(3),
        prompt_index: PromptIndex(5),
        candidate: Candidate(1),
    };

    fn spec() -> RunSpec {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/quickstart.toml");
        let text = std::fs::read_to_string(file).expect("the quickstart is there");
        RunSpec::from_value(toml::from_str(&text).expect("TOML")).expect("a sound spec")
    }

    fn trajectory(spec: &RunSpec) -> Trajectory {
        let extents = Extents {
            steps: 1,
            tokens: 2,
            channels: 4,
        };
        let key = NoiseKey {
            step: 3,
            prompt: 5,
            ..NoiseKey::new(spec.run.seed, Use::Initial)
        };
        let mut latents = key.normal(8);
        latents.extend([0.5; 8]);
        Trajectory {
            metadata: TrajectoryMetadata {
                family: Family::ALL[0],
                model: gavel_core::ids::Digest::of(b"model"),
                adapter: None,
                prompt: "a circle".into(),
                sources: Vec::new(),
                conditioning: None,
                seed: spec.run.seed,
                step: 3,
                prompt_index: 5,
                candidate: 1,
                sde: Sde::Dance,
                eta: 0.3,
                noise_steps: 1,
                shift: 1.0,
                guidance_scale: None,
                width: 16,
                height: 16,
                grid: Grid { height: 1, width: 2 },
            },
            extents,
            latents,
            log_probs: vec![0.0],
            sigmas: vec![1.0, 0.0],
            velocities: vec![0.0; 8],
            conditioning: Arc::new(HostConditioning::new()),
        }
    }

    #[test]
    fn a_trajectory_of_its_key_passes_and_every_other_is_named() {
        let mut spec = spec();
        spec.sampling.shared_noise = true;
        let good = trajectory(&spec);
        assert_eq!(check(&good, &spec, WANTED), Ok(()));

        let of_another_prompt = Wanted {
            prompt_index: PromptIndex(4),
            ..WANTED
        };
        assert!(check(&good, &spec, of_another_prompt).is_err_and(|problem| problem.contains("asked for")));

        let mut blown_up = good.clone();
        blown_up.velocities[7] = f32::NAN;
        assert!(check(&blown_up, &spec, WANTED).is_err_and(|problem| problem.contains("`velocities` holds NaN at 7")));

        let mut other_noise = good.clone();
        other_noise.latents[0] += 1e-3;
        assert!(check(&other_noise, &spec, WANTED).is_err_and(|problem| problem.contains("noise of its key")));

        // Without shared noise the second candidate has a key of its own.
        spec.sampling.shared_noise = false;
        assert!(check(&good, &spec, WANTED).is_err_and(|problem| problem.contains("noise of its key")));
    }
}
