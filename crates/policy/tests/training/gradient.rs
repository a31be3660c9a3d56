//! Gradients on the shipped small model.

use crate::common::{adapter, groups, objective, settings, trainer};
use gavel_core::ids::{Digest, PromptIndex};
use gavel_core::spec::ObjectiveSpec;
use gavel_models::denoiser::ActivationMemory;
use gavel_policy::train::Error;
use gavel_policy::{GradientSettings, Group, ShardGradient, Trajectory};

fn flat(shard: &ShardGradient) -> &[f32] {
    shard.gradient.as_deref().unwrap()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], relative: f32) {
    let bound = relative * largest(expected);
    let gap = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()));
    assert!(gap <= bound, "differs by {gap:e}, allowed {bound:e}");
}

#[test]
fn recomputed_log_probabilities_are_the_samplers() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 3);
    let shard = trainer.gradient(&adapter, &groups, &settings(&objective())).unwrap();
    assert_eq!(shard.statistics.terms, 3 * 2 * 3);
    assert!(
        shard.statistics.ratio_deviation < 1e-5,
        "{}",
        shard.statistics.ratio_deviation
    );
    assert_eq!(shard.statistics.clipped, 0);
    assert!(shard.statistics.kl > 0.0, "the adapter is not the base");
    assert_eq!(shard.deviation, None);
    assert!(largest(flat(&shard)) > 0.0);
}

#[test]
fn another_adapter_shows_as_the_velocity_that_differs_first() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 1);
    let fresh = trainer.initialise(&crate::common::lora(), 1, false).unwrap().adapter;
    let objective = objective();
    let strict = GradientSettings {
        ratio_deviation: 1e-5,
        ..settings(&objective)
    };
    let shard = trainer.gradient(&fresh, &groups, &strict).unwrap();
    let deviation = shard.deviation.unwrap();
    assert!(deviation.velocity_difference > 1e-3, "{deviation}");
    assert!(
        deviation
            .to_string()
            .contains("the first tensor that differs is `velocities`"),
        "{deviation}"
    );
}

#[test]
fn a_shard_is_the_sum_of_its_pairs() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 3);
    let objective = objective();
    let whole = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    let mut sum = vec![0.0; adapter.parameter_count()];
    let mut loss = 0.0;
    for group in &groups {
        let one = trainer
            .gradient(&adapter, std::slice::from_ref(group), &settings(&objective))
            .unwrap();
        sum.iter_mut().zip(flat(&one)).for_each(|(sum, value)| *sum += value);
        loss += one.statistics.loss;
    }
    assert_close(flat(&whole), &sum, 1e-5);
    assert!((whole.statistics.loss - loss).abs() < 1e-9);
}

#[test]
fn a_shard_gives_the_same_bits_on_any_number_of_threads() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 2);
    let objective = objective();
    let gradients = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| flat(&trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap()).to_vec())
    });
    assert_eq!(gradients[0], gradients[1]);
}

#[test]
fn checkpointing_changes_nothing_but_the_order_of_a_sum() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 1);
    let objective = objective();
    let kept = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    let checkpointed = GradientSettings {
        memory: ActivationMemory::Checkpoint,
        ..settings(&objective)
    };
    let checkpointed = trainer.gradient(&adapter, &groups, &checkpointed).unwrap();
    assert_close(flat(&checkpointed), flat(&kept), 1e-5);
    assert_eq!(checkpointed.statistics, kept.statistics);
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let groups = groups(digest, &adapter, 2);
    let objective = ObjectiveSpec {
        clip_range: 0.9,
        ..objective()
    };
    let shard = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    let gradient = flat(&shard);
    let norm = gradient
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt();
    let loss_at = |distance: f64| {
        let mut moved = adapter.clone();
        let step = |(value, slope): (&f32, &f32)| (f64::from(*value) + distance * f64::from(*slope) / norm) as f32;
        moved
            .unflatten(&adapter.flatten().iter().zip(gradient).map(step).collect::<Vec<f32>>())
            .unwrap();
        trainer
            .gradient(&moved, &groups, &settings(&objective))
            .unwrap()
            .statistics
            .loss
    };
    // Central difference: its error is of second order in the distance; below it, float32 rounding dominates.
    let distance = 1e-2;
    let slope = (loss_at(distance) - loss_at(-distance)) / (2.0 * distance);
    assert!(
        (slope - norm).abs() < 0.01 * norm,
        "slope {slope}, gradient norm {norm}"
    );
}

#[test]
fn a_pair_that_is_not_finite_is_skipped_and_the_others_stay() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let mut groups = groups(digest, &adapter, 3);
    let objective = objective();
    let others: Vec<Group> = vec![groups[0].clone(), groups[2].clone()];
    let expected = trainer.gradient(&adapter, &others, &settings(&objective)).unwrap();
    groups[1].candidates[1].trajectory.log_probs[0] = f32::NAN;
    let shard = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap();
    assert_eq!(shard.skipped.len(), 1);
    assert_eq!(shard.skipped[0].prompt_index, PromptIndex(1));
    assert!(
        shard.skipped[0].reason.contains("candidate 1, timestep 0"),
        "{}",
        shard.skipped[0].reason
    );
    assert_eq!(shard.statistics.terms, expected.statistics.terms);
    assert_close(flat(&shard), flat(&expected), 1e-5);

    let only = trainer
        .gradient(&adapter, &groups[1..2], &settings(&objective))
        .unwrap();
    assert!(only.gradient.is_none());
    assert_eq!(only.statistics.terms, 0);
}

#[test]
fn trajectories_that_do_not_fit_are_refused() {
    let trainer = trainer();
    let (digest, adapter) = adapter(&trainer);
    let good = groups(digest, &adapter, 1);
    let objective = objective();
    let refuse = |change: fn(&mut Group), expected: &str| {
        let mut groups = good.clone();
        change(&mut groups[0]);
        let error = trainer.gradient(&adapter, &groups, &settings(&objective)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    refuse(
        |group| group.candidates[1].trajectory.metadata.model = Digest([9; 32]),
        "was sampled from a transformer with fingerprint 0909",
    );
    refuse(
        |group| group.candidates[0].trajectory.metadata.shift = 2.0,
        "`sigmas` has",
    );
    refuse(
        |group| group.candidates[0].trajectory.metadata.noise_steps = 2,
        "timestep 2 cannot be trained",
    );
    refuse(
        |group| group.candidates[1].trajectory.metadata.guidance_scale = Some(1.0),
        "with the same guidance",
    );

    let mut bytes = good[0].candidates[0].trajectory.to_safetensors();
    bytes.truncate(bytes.len() - 1);
    let corrupt = Trajectory::from_safetensors(&bytes);
    let error = corrupt.map_err(Error::in_file("trajectory blob x")).unwrap_err();
    assert_eq!(error.to_string(), "trajectory blob x");
}
