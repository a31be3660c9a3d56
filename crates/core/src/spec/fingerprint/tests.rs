use std::path::Path;

use serde_json::Value;

use super::super::tests::{full, quickstart};
use super::super::{
    EmbeddingServerSpec, GradientExchange, HeldOutJudgeSpec, InProcessSpec, JudgeBackEnd, ReasonsSpec, RunSpec,
    WriterSpec, judge, keys,
};
use super::*;

/// The keys that are part of the fingerprint. A new key belongs here or, with its reason, into `NOT_PART`.
const PART: &[&str] = &[
    "run.name",
    "run.seed",
    "run.steps",
    "model.family",
    "model.device",
    "model.dtype",
    "model.text_encoder_device",
    "model.quantization",
    "prompts.per_step",
    "prompts.max_sequence_length",
    "prompts.source_areas",
    "sampling.steps",
    "sampling.shift",
    "sampling.sde",
    "sampling.eta",
    "sampling.noise_steps",
    "sampling.guidance_scale",
    "sampling.width",
    "sampling.height",
    "sampling.source_aspect",
    "sampling.candidates",
    "sampling.shared_noise",
    "sampling.batch",
    "sampling.max_policy_lag",
    "lora.rank",
    "lora.alpha",
    "lora.dropout",
    "lora.target_modules",
    "objective.clip_range",
    "objective.kl",
    "objective.kl_beta",
    "objective.reward_preferred",
    "objective.reward_dispreferred",
    "objective.advantage_clip",
    "objective.ignore_last",
    "optimizer.learning_rate",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.epsilon",
    "optimizer.weight_decay",
    "optimizer.gradient_clip",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "optimizer.ema_decay",
    "judge.family",
    "judge.margin",
    "judge.batch",
    "judge.orders",
    "judge.orders_trust",
    "judge.orders_window",
    "judge.orders_recheck",
    "judge.min_distance",
    "judge.device",
    "judge.dtype",
    "judge.endpoint",
    "judge.model",
    "judge.temperature",
    "judge.evaluator",
    "judge.head",
    "judge.combine",
    "judge.members",
    "judge.weight",
    "judge.veto",
    "judge.reasons",
    "judge.reasons.fraction",
    "judge.reasons.max_tokens",
    "judge.writer",
    "judge.writer.criteria",
    "judge.writer.nearest",
    "judge.writer.embedding",
    "judge.writer.embedding.family",
    "judge.writer.embedding.endpoint",
    "judge.writer.embedding.model",
    "judge.writer.max_tokens",
    "judge.writer.combine",
    "judge.held_out",
    "judge.held_out.share",
    "trainer.shard",
    "trainer.checkpoint_activations",
    "checkpoints.every",
    "evaluation.evaluator",
    "evaluation.prompts",
    "evaluation.batch",
    "limits.attempts",
    "limits.skipped_pairs",
    "limits.ratio_deviation",
];

fn every_key() -> Vec<String> {
    let sections = RunSpec::keys().map(|(section, key)| format!("{section}.{key}"));
    let reasons = keys::of(|probe| <ReasonsSpec as serde::Deserialize>::deserialize(probe));
    let reasons = reasons.into_iter().map(|key| format!("judge.reasons.{key}"));
    let writer = judge::writer_keys()
        .into_iter()
        .map(|key| format!("judge.writer.{key}"));
    let embedding = judge::embedding_keys().into_iter();
    let embedding = embedding.map(|key| format!("judge.writer.embedding.{key}"));
    sections
        .chain(reasons)
        .chain(writer)
        .chain(embedding)
        .chain(["judge.held_out.share".to_owned()])
        .collect()
}

/// Why a key is no part, where a list says so.
fn reason(key: &str) -> Option<&'static str> {
    let section = key.split('.').next().unwrap();
    // An embedding's keys count as those of the judge.
    let of_judge = key
        .strip_prefix("judge.writer.embedding.")
        .map(|own| format!("judge.{own}"));
    let of_judge = of_judge.as_deref().unwrap_or(key);
    let listed = NOT_PART
        .iter()
        .find(|(listed, _)| *listed == of_judge || *listed == section);
    let is_path = paths::PATHS.contains(&key);
    listed
        .map(|(_, reason)| *reason)
        .or(is_path.then_some("what it names is compared by its contents"))
}

#[test]
fn every_key_is_part_of_the_fingerprint_or_there_is_a_reason_why_not() {
    let keys = every_key();
    for key in &keys {
        let is_part = PART.contains(&key.as_str());
        assert!(
            is_part != reason(key).is_some(),
            "decide whether `{key}` is part of the fingerprint: list it in PART, or with a reason in NOT_PART"
        );
    }
    let mut sections = keys.iter().filter_map(|key| key.split('.').next());
    for (listed, _) in NOT_PART {
        assert!(
            keys.iter().any(|key| key == listed) || sections.any(|section| section == *listed),
            "NOT_PART lists `{listed}`, which is no key"
        );
    }
    for listed in PART {
        assert!(
            keys.iter().any(|key| key == listed),
            "PART lists `{listed}`, which is no key"
        );
    }
}

#[test]
fn a_changed_value_changes_the_fingerprint_exactly_where_the_key_is_part_of_it() {
    let mut base = serde_json::json!(full());
    base["judge"]["reasons"] = serde_json::json!(ReasonsSpec::default());
    base["judge"]["writer"] = serde_json::json!(WriterSpec::default());
    base["judge"]["writer"]["embedding"] = serde_json::json!(EmbeddingServerSpec::default());
    base["judge"]["held_out"] = serde_json::json!(HeldOutJudgeSpec::default());
    for key in every_key().iter().filter(|key| !paths::PATHS.contains(&key.as_str())) {
        let mut changed = base.clone();
        let value = key.split('.').fold(&mut changed, |at, part| &mut at[part]);
        *value = "changed".into();
        assert_eq!(
            of_json(changed) != of_json(base.clone()),
            PART.contains(&key.as_str()),
            "{key}"
        );
        // A member's keys count as those of the judge.
        if let Some(own) = key.strip_prefix("judge.").filter(|own| !own.contains('.')) {
            let mut changed = base.clone();
            changed["judge"]["members"][0][own] = "changed".into();
            assert_eq!(
                of_json(changed) != of_json(base.clone()),
                PART.contains(&key.as_str()),
                "a member's {own}"
            );
        }
        // And so do those of the held-out judge, and of a writer with a model of its own.
        for inner in ["held_out", "writer"] {
            if let Some(own) = key.strip_prefix("judge.").filter(|own| !own.contains('.')) {
                let mut changed = base.clone();
                changed["judge"][inner][own] = "changed".into();
                assert_eq!(
                    of_json(changed) != of_json(base.clone()),
                    PART.contains(&key.as_str()),
                    "{own} of {inner}"
                );
            }
        }
    }
}

#[test]
fn two_specs_differ_by_the_keys_that_are_part_of_the_fingerprint() {
    let one = full();
    let mut other = one.clone();
    other.fleet.samplers += 1;
    other.prompts.train = "elsewhere.txt".into();
    assert!(one.differences(&other).is_empty());
    other.run.steps += 1;
    assert!(one.differs_in_steps_alone(&other));
    other.lora.rank += 1;
    other.evaluation = None;
    assert_eq!(one.differences(&other), ["evaluation", "lora.rank", "run.steps"]);
    assert!(!one.differs_in_steps_alone(&other));
}

#[test]
fn where_the_files_are_is_no_part_of_the_fingerprint() {
    let mut elsewhere = full();
    for (_, path) in paths::of(&mut elsewhere) {
        *path = Path::new("/elsewhere").join(&*path);
    }
    assert_eq!(elsewhere.digest(), full().digest());
}

#[test]
fn two_spellings_of_an_address_are_one_server() {
    let mut spec = RunSpec::from_value(quickstart()).unwrap();
    let mut at = |endpoint: &str| {
        spec.judge.back_end = JudgeBackEnd::Server(judge::ServerSpec {
            endpoint: endpoint.into(),
            model: "vlm".into(),
            ..judge::ServerSpec::default()
        });
        spec.digest()
    };
    assert_eq!(at("http://host/v1/"), at("http://host/v1"));
    assert_ne!(at("http://elsewhere/v1"), at("http://host/v1"));
}

#[test]
fn how_the_gradient_sums_travel_is_no_part_and_another_judge_is() {
    let spec = RunSpec::from_value(quickstart()).unwrap();
    let with = |change: fn(&mut RunSpec)| {
        let mut other = spec.clone();
        change(&mut other);
        other.digest()
    };
    assert_eq!(
        with(|spec| spec.trainer.exchange = GradientExchange::Nccl),
        spec.digest()
    );
    assert_ne!(with(|spec| spec.evaluation = None), spec.digest());
    assert_ne!(
        with(|spec| spec.judge.back_end = InProcessSpec::default().into()),
        spec.digest()
    );
}

/// Specs of every kind of judge as the version before wrote them, with the fingerprints that it gave them.
const BEFORE: [(&str, &str, &str); 3] = [
    (
        "hosted",
        include_str!("../../../fixtures/spec-hosted.json"),
        "8750a281584442c2620df5c11a7810c616067324c2cfb0dc20219c47b9f7df3d",
    ),
    (
        "server",
        include_str!("../../../fixtures/spec-server.json"),
        "8c1537fce55d92690e1fd088466434051586b5b8fcd1b754e2062fe3f0acf78c",
    ),
    (
        "ensemble",
        include_str!("../../../fixtures/spec-ensemble.json"),
        "4c3455b7410ab5a1dee21528a5b1f11230027f8f4a508f8e6251e7d3ed5830c4",
    ),
];

#[test]
fn the_fingerprint_with_paths_is_the_one_that_was_stored() {
    for (kind, text, stored) in BEFORE {
        assert_eq!(with_paths(text).unwrap().to_string(), stored, "{kind}");
    }
    assert_eq!(with_paths("no JSON"), None);
    assert_eq!(with_paths("{}"), None);
}

#[test]
fn specs_of_before_are_read_and_keep_their_meaning() {
    for (kind, text, _) in BEFORE {
        let mut spec: RunSpec = serde_json::from_str(text).unwrap_or_else(|error| panic!("{kind}: {error}"));
        // One of them was put together for a GPU; it is checked without.
        spec.trainer.exchange = GradientExchange::Blobs;
        spec.check().unwrap_or_else(|problems| panic!("{kind}: {problems}"));
        let again: RunSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec, "{kind}");
    }
    let before: RunSpec = serde_json::from_str(BEFORE[0].1).unwrap();
    let now = RunSpec::from_value(quickstart()).unwrap();
    assert_eq!(
        before.digest(),
        now.digest(),
        "the quickstart of before goes on with the file of now"
    );
}

#[test]
fn a_run_keeps_its_fingerprint_over_versions() {
    let spec: RunSpec = serde_json::from_str(BEFORE[0].1).unwrap();
    assert_eq!(
        spec.digest().to_string(),
        "44e3e81b464740361e7ff46dc409c7cd30e63c1bef00ea208f4700fc59afff64",
        "a key was added or a default changed: runs that are there would no longer be resumed"
    );
    let value: Value = serde_json::from_str(BEFORE[0].1).unwrap();
    assert!(
        value["judge"]["timeout"].is_string(),
        "a spec of before has the keys of every kind of judge"
    );
}
