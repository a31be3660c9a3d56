//! Messages that are too large, in every way in which one can be.

use gavel_core::spec::{MemberSpec, RunSpec};
use serde_json::{Value, json};
use tonic::Code;

use crate::stranger::{RawJudge, Stranger, introduction, v1};
use crate::target::Target;

/// A submission of the good run under another name, with its spec and its files changed.
fn submission(target: &Target, change: impl FnOnce(&mut Value, &mut Value)) -> v1::SubmitRequest {
    let mut spec = serde_json::to_value(&target.good.spec).expect("JSON");
    let mut assets = serde_json::to_value(&target.good.assets).expect("JSON");
    change(&mut spec, &mut assets);
    v1::SubmitRequest {
        run_id: "hostile".into(),
        spec_json: spec.to_string(),
        assets_json: assets.to_string(),
    }
}

/// As many prompts as fit into so many bytes.
fn prompts_of(bytes: usize) -> String {
    format!(
        "{{\"prompts\": [\"p\"], \"held_out\": [{}\"p\"]}}",
        "\"p\",".repeat(bytes / 4)
    )
}

async fn refused(target: &Target, request: v1::SubmitRequest) -> String {
    let answer = Stranger::new(target.grpc()).runs().submit(request).await;
    let status = answer.expect_err("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn millions_of_prompts_are_refused_before_memory_is_taken_for_them() {
    let target = Target::start().await;
    let with = |assets_json| v1::SubmitRequest {
        assets_json,
        ..submission(&target, |_, _| {})
    };
    // 13 million in 52 MB: more than the call may send.
    let error = refused(&target, with(prompts_of(52_000_000))).await;
    assert!(error.contains("the most that this call may send"), "{error}");
    // 8 million in 32 MB: a message that may come, two at once.
    let many = prompts_of(32_000_000);
    let all = futures::future::join_all((0..2).map(|_| refused(&target, with(many.clone()))));
    for error in all.await {
        assert!(
            error.contains("`prompts.held_out`: 8000001 prompts, at most 20000 are taken"),
            "{error}"
        );
    }
    // Numbers that are all allowed, of a run that may need more than there is for all runs where nobody says how much.
    let large = submission(&target, |spec, _| {
        spec["prompts"]["per_step"] = json!(16_384);
        spec["sampling"]["candidates"] = json!(4);
        spec["sampling"]["max_policy_lag"] = json!(8);
    });
    let answer = Stranger::new(target.grpc()).runs().submit(large).await;
    let error = answer.expect_err("a refusal");
    assert!(error.message().contains("it has 134217728 for all of them"), "{error}");
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_of_a_spec_is_bounded_with_key_found_and_allowed() {
    let target = Target::start().await;
    for (section, key, value, found) in [
        (
            "prompts",
            "per_step",
            json!(u32::MAX),
            "prompts.per_step: must be at most 16384, not 4294967295",
        ),
        (
            "prompts",
            "per_step",
            json!(20_000_000),
            "prompts.per_step: must be at most 16384, not 20000000",
        ),
        (
            "prompts",
            "max_sequence_length",
            json!(u32::MAX),
            "must be at most 8192, not 4294967295",
        ),
        (
            "lora",
            "rank",
            json!(10_000_000),
            "lora.rank: must be at most 4096, not 10000000",
        ),
        (
            "lora",
            "target_modules",
            json!(vec!["x"; 300]),
            "lora.target_modules: must be at most 256, not 300",
        ),
        (
            "run",
            "seed",
            json!(1_u64 << 63),
            "run.seed: must be at most 9223372036854775807, not 9223372036854775808",
        ),
        (
            "run",
            "steps",
            json!(u32::MAX),
            "run.steps: must be at most 10000000, not 4294967295",
        ),
        (
            "run",
            "name",
            json!("x".repeat(1 << 19)),
            "run.name: must be 1 to 100 letters",
        ),
        (
            "sampling",
            "width",
            json!(1_u64 << 40),
            "sampling.width: must be a multiple of 16 in 16 to 8192",
        ),
        (
            "sampling",
            "batch",
            json!(u32::MAX),
            "sampling.batch: must be at most 16384",
        ),
        (
            "sampling",
            "eta",
            json!(1e308),
            "sampling.eta: must be a positive number of at most 1e12, not 1e308",
        ),
        (
            "trainer",
            "shard",
            json!(u32::MAX),
            "trainer.shard: must be at most 16384",
        ),
        ("judge", "batch", json!(u32::MAX), "judge.batch: must be at most 16384"),
        (
            "limits",
            "attempts",
            json!(u32::MAX),
            "limits.attempts: must be at most 1000",
        ),
        (
            "model",
            "path",
            json!("x".repeat(5_000)),
            "model.path: must have at most 4096 bytes, not 5000",
        ),
        (
            "fleet",
            "heartbeat",
            json!("18446744073709551615s"),
            "fleet.lease: must be at least twice",
        ),
    ] {
        let request = submission(&target, |spec, _| spec[section][key] = value);
        let error = refused(&target, request).await;
        assert!(error.contains(found), "{section}.{key}: {error}");
        assert!(error.len() < 3_000, "{section}.{key}: {} bytes", error.len());
    }
    // What passes key by key and is too much together.
    let request = submission(&target, |spec, _| {
        spec["prompts"]["per_step"] = json!(16_384);
        spec["sampling"]["candidates"] = json!(16);
    });
    let error = refused(&target, request).await;
    assert!(
        error.contains("are 1966080 matches in a step, at most 131072 are taken"),
        "{error}"
    );
    let members = vec![serde_json::to_value(MemberSpec::default()).expect("JSON"); 17];
    let request = submission(&target, |spec, _| {
        spec["judge"] = json!({ "family": "ensemble", "members": members })
    });
    let error = refused(&target, request).await;
    assert!(error.contains("judge.members: must be at most 16, not 17"), "{error}");
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_of_a_runs_files_is_bounded_and_so_is_what_a_unit_takes() {
    let target = Target::start().await;
    for (change, found) in [
        (
            json!({ "prompts": vec!["x".repeat(4_000_000); 6] }),
            "prompts.train: task 1 has 4000000 bytes of words, at most 16384 are taken",
        ),
        (
            json!({ "rubric": { "text": "x".repeat(20 << 20), "digest": "0".repeat(64) } }),
            "judge.rubric: must have at most 131072 bytes, not 20971520",
        ),
        (
            json!({ "template": "x".repeat(1 << 20) }),
            "judge.template: must have at most 131072 bytes",
        ),
        (
            json!({ "member_templates": vec![""; 1_000_000] }),
            "`judge.members`: 1000000 members, at most 16",
        ),
        (json!({ "prompts": [] }), "prompts.train: the file holds no prompt"),
        (json!({ "prompts": [7] }), "the run's files cannot be read"),
    ] {
        let request = submission(&target, |_, assets| {
            let change = change.as_object().expect("an object").clone();
            assets.as_object_mut().expect("an object").extend(change);
        });
        let error = refused(&target, request).await;
        assert!(error.contains(found), "{error}");
    }
    let request = submission(&target, |spec, assets| {
        assets["prompts"] = json!(vec!["x".repeat(16_000); 100]);
        spec["prompts"]["per_step"] = json!(2_000);
        spec["sampling"]["batch"] = json!(2_000);
    });
    let error = refused(&target, request).await;
    assert!(
        error.contains("sampling.batch: a unit of so many prompts may take 32320000 bytes"),
        "{error}"
    );
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_come_until_the_memory_for_runs_is_taken_and_no_further() {
    let target = Target::start_with(&["--run-memory", "40"]).await;
    let runs = target.connection().await.runs();
    let mut assets = target.good.assets.clone();
    assets.prompts = (0..1_000).map(|line| format!("{line:>16000}").into()).collect();
    let mut refusal = None;
    for number in 0..4 {
        let spec = RunSpec {
            run: gavel_core::spec::RunSection {
                name: format!("large-{number}"),
                ..target.good.spec.run.clone()
            },
            ..target.good.spec.clone()
        };
        if let Err(error) = runs.submit(&spec.id(), &spec, &assets).await {
            refusal = Some((number, error));
            break;
        }
    }
    let (number, error) = refusal.expect("a refusal");
    assert!((1..3).contains(&number), "after {number} runs");
    assert!(error.message().contains("give it more with --run-memory"), "{error}");
    // Many who ask for a large description and do not read it.
    let asks = (0..40).map(|_| {
        let mut runs = Stranger::new(target.grpc()).runs();
        tokio::spawn(async move {
            let run_id = "large-0".into();
            let asked = runs.get_spec(v1::GetSpecRequest { run_id });
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), asked).await;
        })
    });
    futures::future::join_all(asks).await;
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_or_reason_fills_the_log_or_the_status_of_every_run() {
    let target = Target::start().await;
    let stranger = Stranger::new(target.grpc());
    for length in [129, 200_000, 50_000_000] {
        let request = v1::RegisterRequest {
            host: "x".repeat(length),
            ..introduction(v1::Role::Judge)
        };
        let refused = stranger.fleet().register(RawJudge::new().sends(request)).await;
        assert_eq!(refused.expect_err("no name").code(), Code::InvalidArgument, "{length}");
    }
    let two_lines = || "x\ny".repeat(50);
    let fields: [fn(&mut v1::RegisterRequest) -> &mut String; 3] = [
        |request| &mut request.host,
        |request| &mut request.device,
        |request| &mut request.version,
    ];
    for field in fields {
        let mut request = introduction(v1::Role::Judge);
        *field(&mut request) = two_lines();
        let refused = stranger.fleet().register(RawJudge::new().sends(request)).await;
        assert_eq!(refused.expect_err("no name").code(), Code::InvalidArgument);
    }
    let request = submission(&target, |spec, _| spec["run"]["name"] = json!("hostile"));
    stranger.runs().submit(request).await.expect("a run like any other");
    for length in [40 << 20, 200 << 10] {
        let request = v1::CancelRequest {
            run_id: "hostile".into(),
            reason: "\u{fc}".repeat(length / 2),
        };
        let answer = stranger.runs().cancel(request).await;
        assert_eq!(answer.is_ok(), length < 1 << 20, "{length}: {answer:?}");
    }
    let states = target.connection().await.runs().list().await.expect("all runs");
    let hostile = states.iter().find(|state| state.run.0 == "hostile").expect("the run");
    let text = serde_json::to_string(hostile).expect("JSON");
    assert!(
        text.contains("(cut, 204800 bytes in all)") && text.len() < 10_000,
        "{} bytes",
        text.len()
    );
    let log = std::fs::metadata(target.log()).expect("a log").len();
    assert!(log < 1 << 20, "{log} bytes of log");
    target.has_survived().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_thousands_of_verdicts_do_not_stop_the_ledger() {
    let target = Target::start().await;
    let stranger = Stranger::new(target.grpc());
    let judge = RawJudge::new();
    let registered = stranger
        .fleet()
        .register(judge.sends(introduction(v1::Role::Judge)))
        .await;
    registered.expect("anybody may join");
    let verdicts = |count: u32| {
        let kept = (0..count).map(|number| v1::KeptVerdict {
            key: [number.to_le_bytes().as_slice(), &[0; 28]].concat(),
            record: Some(v1::VerdictRecord {
                verdict: Some(v1::Verdict {
                    kind: Some(v1::verdict::Kind::Preferred(v1::Side::First.into())),
                }),
                probability_first: 0.5,
                first_order_probability: 0.5,
                second_order_probability: 0.5,
                rubric: vec![0; 32],
                ..v1::VerdictRecord::default()
            }),
            ..v1::KeptVerdict::default()
        });
        judge.sends(v1::KeepVerdictsRequest {
            worker_id: judge.name(),
            verdicts: kept.collect(),
        })
    };
    for (count, found) in [
        (500_000, "the most that this call may send"),
        (70_000, "`verdicts`: 70000 verdicts, at most 65536"),
    ] {
        let refused = stranger
            .fleet()
            .keep_verdicts(verdicts(count))
            .await
            .expect_err("too many");
        assert!(refused.message().contains(found), "{refused}");
    }
    stranger
        .fleet()
        .keep_verdicts(verdicts(500))
        .await
        .expect("as a judge keeps them");
    let keys = vec![vec![0; 32]; 100_000];
    let refused = stranger
        .fleet()
        .recall_verdicts(judge.sends(v1::RecallVerdictsRequest {
            worker_id: judge.name(),
            keys,
        }))
        .await;
    assert!(refused.expect_err("too many").message().contains("at most 65536"));
    target.has_survived().await;
}
