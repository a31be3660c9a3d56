//! Time of what a commit stores, at the size of FLUX.1-dev's adapter of rank 16 (45 million parameters, 179 MB) with its average and its
//! optimizer state: the three files written and hashed at the same time, and one after the other.
//!
//! `cargo bench -p gavel-policy --bench encode`

#![expect(clippy::expect_used, reason = "a bench has nobody to report an error to")]

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use gavel_core::ids::Digest;
use gavel_models::{Family, load::Placement, lora::LoraConfig};
use gavel_policy::Trainer;
use gavel_policy::train::PolicyState;

/// A policy of that many parameters: the small model's layers with a large rank.
fn policy() -> PolicyState {
    const PARAMETERS: usize = 44_800_000;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-flux");
    let family = Family::from_name("flux").expect("a family");
    let trainer = Trainer::load(family, &folder, &Placement::cpu()).expect("the shipped model");
    let of_rank = |rank| {
        let targets = family.published_targets().iter();
        let config = LoraConfig {
            rank,
            alpha: 32.0,
            dropout: 0.0,
            target_modules: targets.map(|target| (*target).to_owned()).collect(),
        };
        trainer.initialise(&config, 7, true).expect("a fresh policy")
    };
    of_rank(PARAMETERS.div_ceil(of_rank(1).adapter.parameter_count()))
}

fn encode(criterion: &mut Criterion) {
    let policy = policy();
    let mut group = criterion.benchmark_group("encode a policy of 179 MB");
    group.sample_size(10);
    group.bench_function("at the same time", |bencher| {
        bencher.iter(|| policy.encode().expect("files"));
    });
    group.bench_function("one after the other", |bencher| {
        bencher.iter(|| {
            let averaged = policy.averaged().expect("of this adapter").expect("kept");
            [
                policy.adapter.to_safetensors().expect("a file"),
                policy.optimizer.to_safetensors(),
                averaged.to_safetensors().expect("a file"),
            ]
            .map(|file| (Digest::of(&file), file))
        });
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
