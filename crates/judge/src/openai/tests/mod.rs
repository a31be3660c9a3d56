//! The client and the judge against a server that misbehaves on command.

mod odd_servers;
mod stub;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gavel_core::Diagnostic;
use gavel_core::ids::PromptIndex;
use gavel_core::spec::ServerSpec;
use gavel_core::work::{AbstainReason, Orders, Side, Verdict, VerdictRecord};
use gavel_rubric::{
    AskError, Chat as _, ChatReply, ChatRequest, Judge as _, JudgeTemplate, JudgedPair, Message, Part, RubricSet,
};
use image::{Rgb, RgbImage};
use serde_json::json;

use super::client::Client;
use super::proxy::Proxies;
use super::{Endpoint, EndpointJudge};
use stub::{Act, Server, Stub, brighter_and_count, serve};

fn spec(server: &Server) -> ServerSpec {
    ServerSpec {
        endpoint: format!("http://{}/v1", server.address),
        model: "vlm".into(),
        attempts: 3,
        concurrency: 1,
        prompt_price: Some(2.0),
        completion_price: Some(10.0),
        ..ServerSpec::default()
    }
}

fn endpoint(spec: &ServerSpec) -> Arc<Endpoint> {
    Arc::new(endpoint_with(spec, None))
}

fn endpoint_with(spec: &ServerSpec, key: Option<&str>) -> Endpoint {
    let client = Client::with_key(spec, &Proxies::from_env(), key).unwrap();
    Endpoint::with_client(spec, client.without_pauses()).unwrap()
}

fn template(name: &str) -> JudgeTemplate {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/judge");
    JudgeTemplate::load(&folder.join(format!("{name}.toml"))).unwrap()
}

/// A server that judges as told, by template, over `pairs` pairs of which the first picture is brighter.
fn judge(server: &Server, template_name: &str, pairs: u32) -> Result<Vec<VerdictRecord>, AskError> {
    judge_as(&spec(server), template_name, pairs)
}

fn judge_as(spec: &ServerSpec, template_name: &str, pairs: u32) -> Result<Vec<VerdictRecord>, AskError> {
    judge_in(&vec![Orders::Both; pairs as usize], spec, template_name)
}

/// The same with a pair for each of these orders.
fn judge_in(orders: &[Orders], spec: &ServerSpec, template_name: &str) -> Result<Vec<VerdictRecord>, AskError> {
    let judge = EndpointJudge::new(endpoint(spec), template(template_name), 0.0, spec.concurrency);
    let bright = RgbImage::from_pixel(4, 4, Rgb([200, 200, 200]));
    let dark = RgbImage::from_pixel(4, 4, Rgb([20, 20, 20]));
    let rubric = RubricSet::from_text("Bright.").unwrap();
    let pairs: Vec<JudgedPair<'_>> = (0..)
        .zip(orders)
        .map(|(index, orders)| JudgedPair {
            prompt_index: PromptIndex(index),
            prompt: "a light",
            sources: &[],
            first: &bright,
            second: &dark,
            rubric: &rubric,
            orders: *orders,
            list: &[],
        })
        .collect();
    judge.judge(&pairs)
}

fn only(records: Result<Vec<VerdictRecord>, AskError>) -> VerdictRecord {
    let mut records = records.unwrap();
    assert_eq!(records.len(), 1);
    records.swap_remove(0)
}

const FIRST: Verdict = Verdict::Preferred { side: Side::First };

#[test]
fn both_orders_are_asked_and_must_agree() {
    let server = serve(Stub::new([], Act::Honest));
    let record = only(judge(&server, "ranking", 1));
    assert_eq!(record.verdict, FIRST);
    assert_eq!(record.order_probabilities, [1.0, 1.0]);
    assert_eq!(server.stub.calls(), 2);
    let seen = server.stub.seen.lock().unwrap();
    let mut brighter: Vec<usize> = seen.iter().map(|(request, _)| brighter_and_count(request).0).collect();
    brighter.sort_unstable();
    assert_eq!(brighter, [0, 1], "the pictures change places");
    assert_eq!(seen[0].0["response_format"]["type"], "json_schema");

    let server = serve(Stub::new([], Act::Biased));
    assert_eq!(
        only(judge(&server, "ranking", 1)).verdict,
        Verdict::Abstain {
            reason: AbstainReason::OrdersDisagree
        }
    );
}

#[test]
fn a_pair_that_is_asked_in_one_order_costs_one_question() {
    let server = serve(Stub::new([], Act::Honest));
    let orders = [Orders::Straight, Orders::Both, Orders::Swapped];
    let records = judge_in(&orders, &spec(&server), "ranking").unwrap();
    assert_eq!(server.stub.calls(), 4);
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.prompt_index.0, record.orders))
        .collect();
    assert_eq!(told, [(0, orders[0]), (1, orders[1]), (2, orders[2])]);
    assert!(
        records
            .iter()
            .all(|record| (&record.verdict, record.order_probabilities) == (&FIRST, [1.0; 2]))
    );
    let seen = server.stub.seen.lock().unwrap();
    let brighter: Vec<usize> = seen.iter().map(|(request, _)| brighter_and_count(request).0).collect();
    assert_eq!(brighter, [0, 0, 1, 1], "the first candidate is the bright one");

    // A liking for the picture shown first decides by the order, and an answer that is none fails its own pair alone.
    let server = serve(Stub::new([], Act::Biased));
    let records = judge_in(&[Orders::Straight, Orders::Swapped], &spec(&server), "ranking").unwrap();
    let second = Verdict::Preferred { side: Side::Second };
    assert_eq!([&records[0].verdict, &records[1].verdict], [&FIRST, &second]);
}

#[test]
fn likelihoods_become_probabilities_and_words_become_certainties() {
    let server = serve(Stub {
        likelihoods: true,
        ..Stub::new([], Act::Honest)
    });
    let record = only(judge(&server, "instruct", 1));
    assert_eq!(record.verdict, FIRST);
    let [straight, swapped] = record.order_probabilities;
    assert!((straight - 7.0 / 9.0).abs() < 1e-9, "{straight}");
    assert!((swapped - 8.0 / 9.0).abs() < 1e-9, "{swapped}");

    let server = serve(Stub::new([], Act::Honest));
    let record = only(judge(&server, "instruct", 1));
    assert_eq!((record.verdict, record.order_probabilities), (FIRST, [1.0, 1.0]));

    let server = serve(Stub::new([], Act::Says("Both are lovely.")));
    assert_eq!(
        only(judge(&server, "instruct", 1)).verdict,
        Verdict::Abstain {
            reason: AbstainReason::OutsideLabels
        }
    );
}

#[test]
fn passing_failures_are_repeated_and_counted() {
    for fault in [
        Act::Status(429, Some("0")),
        Act::Status(429, None),
        Act::Status(500, None),
        Act::Status(503, Some("Sun, 06 Nov 1994 08:49:37 GMT")),
        Act::CutBody,
        Act::NoJson,
    ] {
        let server = serve(Stub::new([fault.clone(), fault.clone()], Act::Honest));
        let record = only(judge(&server, "ranking", 1));
        assert_eq!(record.verdict, FIRST, "{fault:?}");
        assert_eq!(server.stub.calls(), 4, "{fault:?}: two faults, two answers");
    }
}

#[test]
fn a_server_waits_as_long_as_it_is_told_to() {
    let server = serve(Stub::new([Act::Status(429, Some("1"))], Act::Honest));
    let began = Instant::now();
    assert_eq!(only(judge(&server, "ranking", 1)).verdict, FIRST);
    assert!(began.elapsed() >= Duration::from_secs(1));

    // Longer than anybody waits: unavailable at once, after one call.
    let server = serve(Stub::new([], Act::Status(429, Some("86400"))));
    assert!(matches!(
        judge(&server, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
    assert_eq!(server.stub.calls(), 1);
}

#[test]
fn a_server_that_stays_away_is_unavailable_and_gives_no_verdict() {
    let server = serve(Stub::new([], Act::Status(500, None)));
    let error = judge(&server, "ranking", 1).unwrap_err();
    assert!(
        matches!(&error, AskError::Unavailable { reason, .. } if reason.contains("500")),
        "{error:?}"
    );
    assert_eq!(server.stub.calls(), 3, "as many as judge.attempts");

    let nobody = ServerSpec {
        endpoint: "http://127.0.0.1:1/v1".into(),
        ..spec(&server)
    };
    assert!(matches!(
        judge_as(&nobody, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
}

#[test]
fn a_slow_server_is_given_up_after_the_timeout() {
    let server = serve(Stub::new([], Act::Sleeps));
    let hasty = ServerSpec {
        timeout: Duration::from_millis(50),
        ..spec(&server)
    };
    assert!(matches!(
        judge_as(&hasty, "ranking", 1),
        Err(AskError::Unavailable { .. })
    ));
    assert_eq!(server.stub.calls(), 3);
}

/// Says hello.
fn greet(endpoint: &Endpoint) -> Result<ChatReply, AskError> {
    let messages = [Message {
        role: "user".into(),
        content: vec![Part::Text("hello".into())],
    }];
    endpoint.reply(&ChatRequest {
        messages: &messages,
        images: &[],
        max_tokens: 8,
        temperature: 0.0,
        seed: 0,
        schema: None,
    })
}

#[test]
fn a_refused_key_is_told_without_the_key_and_not_tried_again() {
    let server = serve(Stub::new([], Act::Status(401, None)));
    let error = greet(&endpoint_with(&spec(&server), Some("sk-secret"))).unwrap_err();
    assert!(
        matches!(&error, AskError::Refused { hint: Some(hint), .. } if hint.contains("api_key_env")),
        "{error:?}"
    );
    let told = Diagnostic::of(&error).to_string();
    assert!(told.contains("busy, [key]") && !told.contains("sk-secret"), "{told}");
    let seen = server.stub.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1["authorization"], "Bearer sk-secret");
}

#[test]
fn an_answer_that_says_nothing_is_asked_for_again_and_then_fails_the_pair() {
    let server = serve(Stub::new([Act::Says("{\"rank\": [1,"), Act::Says("Hm.")], Act::Honest));
    assert_eq!(only(judge(&server, "ranking", 1)).verdict, FIRST);
    assert_eq!(server.stub.calls(), 4);

    let server = serve(Stub::new([], Act::Says(r#"{"reason": "?", "rank": [1, 1]}"#)));
    let record = only(judge(&server, "ranking", 1));
    assert!(
        matches!(&record.verdict, Verdict::Failed { reason } if reason.contains("[1,1]")),
        "{record:?}"
    );
    assert_eq!((record.probability_first, server.stub.calls()), (0.5, 6));
}

#[test]
fn a_refusal_fails_its_own_pair_and_no_other() {
    for act in [Act::Refuses, Act::Filters] {
        let server = serve(Stub::new([act], Act::Honest));
        let records = judge(&server, "ranking", 2).unwrap();
        assert!(
            matches!(&records[0].verdict, Verdict::Failed { reason } if reason.contains("refused")),
            "{records:?}"
        );
        assert_eq!(records[1].verdict, FIRST);
        assert_eq!(server.stub.calls(), 4, "a refusal is not asked again");
    }
}

#[test]
fn a_server_without_schemas_is_asked_in_simpler_ways_and_that_is_remembered() {
    let server = serve(Stub {
        refuses_formats: vec!["json_schema", "json_object"],
        ..Stub::new([], Act::Honest)
    });
    let records = judge(&server, "ranking", 3).unwrap();
    assert!(records.iter().all(|record| record.verdict == FIRST));
    assert_eq!(server.stub.calls(), 2 + 6, "each refused way is tried once");
}

#[test]
fn tokens_and_their_price_are_counted() {
    let server = serve(Stub::new([Act::Status(500, None)], Act::Honest));
    let spec = spec(&server);
    let endpoint = endpoint(&spec);
    let messages = [Message {
        role: "user".into(),
        content: vec![Part::Text("hello".into())],
    }];
    let schema = json!({ "type": "object" });
    let request = ChatRequest {
        messages: &messages,
        images: &[],
        max_tokens: 8,
        temperature: 0.5,
        seed: 3,
        schema: Some(&schema),
    };
    let reply = endpoint.reply(&request).unwrap();
    assert!(reply.complete && reply.text.contains("rank"));
    assert_eq!((reply.usage.prompt_tokens, reply.usage.completion_tokens), (100, 10));
    let spent = endpoint.spent();
    assert_eq!((spent.requests, spent.failures), (2, 1));
    assert!((spent.cost.unwrap() - (100.0 * 2.0 + 10.0 * 10.0) / 1e6).abs() < 1e-12);
    let seen = server.stub.seen.lock().unwrap();
    let request = &seen[1].0;
    assert_eq!((&request["seed"], &request["temperature"]), (&json!(3), &json!(0.5)));
    assert!(request["messages"][0]["content"].as_str().unwrap().contains("schema"));
}

#[test]
fn no_more_requests_are_under_way_than_allowed_and_the_answers_keep_their_places() {
    let server = serve(Stub::new([Act::Refuses], Act::Honest));
    let parallel = ServerSpec {
        concurrency: 4,
        ..spec(&server)
    };
    let records = judge_as(&parallel, "ranking", 16).unwrap();
    let places: Vec<u32> = records.iter().map(|record| record.prompt_index.0).collect();
    assert!(places.iter().copied().eq(0..16));
    let most = server.stub.most.load(Ordering::SeqCst);
    assert!((1..=4).contains(&most), "{most} at a time");
    assert_eq!(records.iter().filter(|record| record.verdict == FIRST).count(), 15);
}

#[test]
fn an_endpoint_may_be_used_and_dropped_within_tokio() {
    let server = serve(Stub::new([], Act::Honest));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let spec = spec(&server);
    let record = runtime.block_on(async move {
        tokio::spawn(async move { only(judge_as(&spec, "ranking", 1)) })
            .await
            .unwrap()
    });
    assert_eq!(record.verdict, FIRST);
}

#[test]
fn a_list_costs_a_question_for_each_picture_and_its_best_one_is_preferred() {
    // Of three pictures the first is the best wherever it stands: first, last, in the middle.
    let server = serve(Stub::new(
        [Act::Says("1"), Act::Says("3"), Act::Says("2.")],
        Act::Refuses,
    ));
    let spec = spec(&server);
    let judge = EndpointJudge::new(endpoint(&spec), template("instruct-list"), 0.0, spec.concurrency);
    assert!(judge.sees_lists());
    let pictures = [200, 20, 90].map(|level| RgbImage::from_pixel(4, 4, Rgb([level; 3])));
    let list: Vec<&RgbImage> = pictures.iter().collect();
    let rubric = RubricSet::from_text("Bright.").unwrap();
    let pair = |[first, second]: [usize; 2]| JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "a light",
        sources: &[],
        first: list[first],
        second: list[second],
        rubric: &rubric,
        orders: Orders::Both,
        list: &list,
    };
    let records = judge.judge(&[[0, 1], [0, 2], [1, 2]].map(pair)).unwrap();
    assert_eq!(server.stub.calls(), 3);
    let told: Vec<_> = records.iter().map(|record| record.verdict.clone()).collect();
    let close = Verdict::Abstain {
        reason: AbstainReason::TooClose,
    };
    assert_eq!(told, [FIRST, FIRST, close]);
    let seen = server.stub.seen.lock().unwrap();
    let words = seen[0].0["messages"].to_string();
    assert!(words.contains("Picture 3:") && !words.contains("Picture 4:"), "{words}");
}
