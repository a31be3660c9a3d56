//! One update offline, on the shipped small model.

use crate::common::{adapter, groups, objective, settings, trainer};
use gavel_core::spec::{ObjectiveSpec, OptimizerSpec};
use gavel_models::{denoiser::ActivationMemory, lora::LoraAdapter};
use gavel_policy::{
    Group, OptimizerState, PolicyState, RewardedTrajectory, TensorFile, Trajectory,
    train::{
        Error,
        replay::{OPTIMIZER_FILE, ReplaySettings, optimizer_beside, replay},
    },
};

fn replay_settings(objective: ObjectiveSpec) -> ReplaySettings {
    let optimizer = OptimizerSpec {
        learning_rate: 1e-3,
        ema_decay: 0.9,
        ..OptimizerSpec::default()
    };
    ReplaySettings {
        objective,
        optimizer,
        memory: ActivationMemory::KeepAll,
        ratio_deviation: 1e-3,
    }
}

fn opened(groups: Vec<Group>) -> (Vec<Trajectory>, Vec<f64>) {
    let open = |one: RewardedTrajectory| (one.trajectory, one.reward);
    groups.into_iter().flat_map(|group| group.candidates).map(open).unzip()
}

#[test]
fn one_update_changes_the_adapter_and_lowers_the_loss() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 2);
    let objective = objective();
    let before = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    let (trajectories, rewards) = opened(groups.clone());
    let state = PolicyState {
        optimizer: OptimizerState::fresh(&adapter, true),
        adapter,
    };
    let settings_of_update = replay_settings(objective.clone());
    let replayed = replay(&trainer, &state, trajectories.clone(), &rewards, &settings_of_update).unwrap();
    assert_eq!(replayed.statistics.terms, 12);
    assert_eq!(replayed.deviation, None);
    assert_ne!(replayed.state.adapter, state.adapter);
    assert_eq!(replayed.state.optimizer.adamw.step, 1);
    let after = trainer
        .gradient(&replayed.state.adapter, &groups, &settings(&objective))
        .unwrap();
    assert!(
        after.statistics.loss < before.statistics.loss,
        "{} -> {}",
        before.statistics.loss,
        after.statistics.loss
    );

    let again = replay(&trainer, &state, trajectories, &rewards, &settings_of_update).unwrap();
    assert_eq!(
        again.state.encode().unwrap().policy,
        replayed.state.encode().unwrap().policy
    );
}

#[test]
fn what_an_update_saves_is_what_the_next_one_reads() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let (trajectories, rewards) = opened(groups(digest, &adapter, 1));
    let state = PolicyState {
        optimizer: OptimizerState::fresh(&adapter, true),
        adapter,
    };
    let replayed = replay(&trainer, &state, trajectories, &rewards, &replay_settings(objective())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    replayed.save(dir.path()).unwrap();
    let loaded = LoraAdapter::load(dir.path(), trainer.denoiser().layers()).unwrap();
    assert_eq!(loaded.flatten(), replayed.state.adapter.flatten());
    assert_eq!(
        optimizer_beside(dir.path(), &loaded, true).unwrap(),
        replayed.state.optimizer
    );
    let averaged = LoraAdapter::load(&dir.path().join("averaged"), trainer.denoiser().layers()).unwrap();
    assert_eq!(Some(averaged.flatten()), replayed.state.optimizer.average);
    assert_ne!(averaged.flatten(), loaded.flatten());

    let gradients = dir.path().join("gradients.safetensors");
    replayed.save_gradients(&gradients).unwrap();
    let file = TensorFile::from_bytes(&std::fs::read(&gradients).unwrap()).unwrap();
    assert_eq!(file.metadata["scale"], "mean");
    assert_eq!(file.metadata["terms"], "6");
    assert_eq!(file.tensors.len(), loaded.manifest().tensors);
    assert!(
        file.tensors
            .contains_key("transformer_blocks.0.attn.to_q.lora_A.weight")
    );

    std::fs::write(dir.path().join(OPTIMIZER_FILE), b"short").unwrap();
    let error = optimizer_beside(dir.path(), &loaded, true).unwrap_err();
    assert!(error.to_string().ends_with(OPTIMIZER_FILE), "{error}");
}

#[test]
fn an_update_that_cannot_be_is_refused() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let (trajectories, rewards) = opened(groups(digest, &adapter, 1));
    let state = PolicyState {
        optimizer: OptimizerState::fresh(&adapter, true),
        adapter,
    };
    let settings = replay_settings(objective());
    let error = replay(&trainer, &state, trajectories.clone(), &rewards[1..], &settings).unwrap_err();
    assert_eq!(error.to_string(), "rewards: 1 rewards for 2 trajectories");

    let mut deterministic = trajectories.clone();
    deterministic.iter_mut().for_each(|one| one.metadata.noise_steps = 0);
    let error = replay(&trainer, &state, deterministic, &rewards, &settings).unwrap_err();
    assert!(matches!(error, Error::NoNoise { noise_steps: 0, .. }), "{error}");

    let mut mixed = trajectories.clone();
    mixed[1].metadata.noise_steps -= 1;
    let error = replay(&trainer, &state, mixed, &rewards, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("trajectory 2 has noise_steps "), "{error}");
    let mut mixed = trajectories.clone();
    mixed[0].metadata.shift += 1.0;
    let error = replay(&trainer, &state, mixed, &rewards, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("trajectory 2 has shift "), "{error}");

    let without_average = PolicyState {
        optimizer: OptimizerState::fresh(&state.adapter, false),
        ..state
    };
    let error = replay(&trainer, &without_average, trajectories, &rewards, &settings).unwrap_err();
    assert!(matches!(error, Error::Average { found: false, .. }), "{error}");
}
