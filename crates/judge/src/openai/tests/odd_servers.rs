//! Servers that differ from each other, and answers that are none.

use super::*;

fn failed(record: &VerdictRecord) -> &str {
    match &record.verdict {
        Verdict::Failed { reason } => reason,
        verdict => panic!("no failure: {verdict:?}"),
    }
}

#[test]
fn a_parameter_that_a_server_refuses_is_left_out_or_renamed_and_so_from_then_on() {
    for (refuses, template, calls) in [
        (vec!["temperature"], "ranking", 1 + 6),
        (vec!["max_tokens"], "ranking", 1 + 6),
        (vec!["max_tokens", "max_completion_tokens"], "ranking", 2 + 6),
        (vec!["logprobs"], "instruct", 2 + 6),
        (vec!["top_logprobs", "temperature", "max_tokens"], "instruct", 4 + 6),
        (vec!["temperature", "response_format"], "ranking", 3 + 6),
    ] {
        let server = serve(Stub {
            refuses: refuses.clone(),
            ..Stub::new(
                [],
                if template == "instruct" {
                    Act::Thinks(0)
                } else {
                    Act::Honest
                },
            )
        });
        let records = judge(&server, template, 3).unwrap();
        assert!(
            records.iter().all(|record| record.verdict == FIRST),
            "{refuses:?}: {records:?}"
        );
        assert_eq!(server.stub.calls(), calls, "{refuses:?}");
        let seen = server.stub.seen.lock().unwrap();
        let last = &seen.last().unwrap().0;
        assert!(refuses.iter().all(|name| last.get(*name).is_none()), "{last}");
    }
}

#[test]
fn a_seed_that_a_server_refuses_does_not_keep_a_question_from_being_asked_again() {
    let server = serve(Stub {
        refuses: vec!["seed"],
        ..Stub::new([Act::Says("Hm.")], Act::Honest)
    });
    assert_eq!(only(judge(&server, "ranking", 1)).verdict, FIRST);
    assert_eq!(
        server.stub.calls(),
        4,
        "one without a rank, one with a seed, two answers"
    );
}

#[test]
fn an_objection_to_something_else_is_told_and_nothing_is_learned_from_it() {
    let server = serve(Stub::new([], Act::Objects(400, "no pictures, please")));
    let error = judge(&server, "ranking", 1).unwrap_err();
    let told = Diagnostic::of(&error);
    assert_eq!(told.causes, ["no pictures, please"]);
    assert!(told.error.ends_with("400 Bad Request"), "{told}");
}

#[test]
fn an_answer_that_is_empty_or_an_error_is_asked_for_again_and_is_never_an_abstention() {
    let empty = json!({ "message": { "content": "" }, "finish_reason": "stop" });
    let broken = json!({ "message": { "content": "" }, "finish_reason": "error", "error": { "code": 502, "message": "upstream failed" } });
    let odd = json!("a page of the intranet");
    for (template, choice, words) in [
        ("ranking", odd, "the answer is no chat completion"),
        ("instruct", empty.clone(), "the answer is empty"),
        ("ranking", empty, "the answer is empty"),
        ("instruct", broken.clone(), "upstream failed"),
        ("ranking", broken, "upstream failed"),
    ] {
        let silent = Act::Chooses(choice);
        let server = serve(Stub::new([silent.clone(), silent.clone()], Act::Thinks(0)));
        if template == "instruct" {
            assert_eq!(only(judge(&server, template, 1)).verdict, FIRST);
            assert_eq!(server.stub.calls(), 4);
        }
        let server = serve(Stub::new([], silent));
        let record = only(judge(&server, template, 1));
        assert!(failed(&record).contains(words), "{record:?}");
        assert_eq!(server.stub.calls(), 6, "{template}: each order three times");
    }
}

#[test]
fn an_answer_that_was_cut_off_gets_more_room_and_the_room_is_remembered() {
    let server = serve(Stub::new([], Act::Thinks(300)));
    let records = judge(&server, "instruct", 2).unwrap();
    assert!(records.iter().all(|record| record.verdict == FIRST), "{records:?}");
    assert_eq!(server.stub.calls(), 1 + 4);

    let server = serve(Stub::new([], Act::Thinks(u64::MAX)));
    let record = only(judge(&server, "instruct", 1));
    assert!(failed(&record).contains("cut off after 4096 tokens"), "{record:?}");
    let talks = json!({ "message": { "content": "Well, the first picture" }, "finish_reason": "length" });
    let server = serve(Stub::new([], Act::Chooses(talks)));
    let record = only(judge(&server, "instruct", 1));
    assert!(failed(&record).contains("cut off"), "{record:?}");
}

#[test]
fn what_a_model_thinks_is_no_part_of_its_answer() {
    let draft = r#"<think>{"reason": "..", "rank": [1, 1]}</think>{"reason": "clearer", "rank": [1, 2]}"#;
    let server = serve(Stub::new([], Act::Says(draft)));
    let record = only(judge(&server, "ranking", 1));
    assert_eq!(record.order_probabilities, [1.0, 0.0], "{record:?}");
    assert_eq!(server.stub.calls(), 2);

    let server = serve(Stub::new([], Act::Says("<think>Hello?</think>\nGood day.")));
    assert_eq!(greet(&endpoint(&spec(&server))).unwrap().text.trim(), "Good day.");
}

#[test]
fn a_question_that_is_too_long_for_the_server_fails_its_own_pair() {
    for act in [
        Act::Objects(
            400,
            "This model's maximum context length is 512 tokens, max_tokens is 8",
        ),
        Act::Objects(413, ""),
    ] {
        let server = serve(Stub::new([act], Act::Honest));
        let records = judge(&server, "ranking", 2).unwrap();
        assert!(
            failed(&records[0]).contains("longer than the server takes"),
            "{records:?}"
        );
        assert_eq!(records[1].verdict, FIRST);
    }
}

#[test]
fn a_server_elsewhere_is_not_followed_with_the_key() {
    let elsewhere = serve(Stub::new([], Act::Honest));
    let place = format!("http://{}/v1/chat/completions", elsewhere.address);
    let server = serve(Stub::new([], Act::Moved(place.clone())));
    let error = greet(&endpoint_with(&spec(&server), Some("sk-secret"))).unwrap_err();
    let told = Diagnostic::of(&error);
    assert!(
        told.error.ends_with("302 Found") && told.causes[0].contains(&place),
        "{told}"
    );
    assert!(told.hint.unwrap().contains("judge.endpoint"));
    assert_eq!((server.stub.calls(), elsewhere.stub.calls()), (1, 0));
}

#[test]
fn everybody_may_be_told_of_a_failure_and_a_servers_words_are_for_who_asked() {
    let server = serve(Stub::new([], Act::Objects(404, "<h1>admin of the intranet</h1>")));
    let error = judge(&server, "ranking", 1).unwrap_err();
    let told = error.for_everybody().in_full();
    assert!(told.contains("404") && !told.contains("intranet"), "{told}");
    assert!(Diagnostic::of(&error).to_string().contains("intranet"));
}

#[test]
fn a_proxy_that_fails_is_named_and_this_machine_is_asked_without_it() {
    let proxies = Proxies::all("http://user:password@127.0.0.1:1");
    let server = serve(Stub::new([], Act::Says("Good day.")));
    let ask = |endpoint: &str| {
        let spec = ServerSpec {
            endpoint: endpoint.to_owned(),
            ..spec(&server)
        };
        let client = Client::with_key(&spec, &proxies, None).unwrap();
        greet(&Endpoint::with_client(&spec, client.without_pauses()).unwrap())
    };
    assert!(ask(&format!("http://{}/v1", server.address)).is_ok());
    let told = Diagnostic::of(&ask("http://judge.example/v1").unwrap_err());
    assert!(told.causes[0].contains("the proxy http://127.0.0.1:1"), "{told}");
    assert!(
        told.hint.as_ref().unwrap().contains("no_proxy") && !told.in_full().contains("password"),
        "{told:?}"
    );
}

#[test]
fn what_is_no_address_is_refused_before_anything_is_asked_and_not_repeated() {
    for endpoint in [
        "localhost:8000/v1",
        "http://user:secret@127.0.0.1:9/v1",
        "http://127.0.0.1:9/v1?key=secret",
    ] {
        let spec = ServerSpec {
            endpoint: endpoint.into(),
            model: "vlm".into(),
            ..ServerSpec::default()
        };
        let told = Diagnostic::of(&Endpoint::new(&spec).err().unwrap()).in_full();
        assert!(told.contains("judge.endpoint") && !told.contains("secret"), "{told}");
    }
}

#[test]
fn a_prompt_without_end_fails_its_own_pair_without_a_request() {
    let server = serve(Stub::new([], Act::Honest));
    let judge = EndpointJudge::new(endpoint(&spec(&server)), template("ranking"), 0.0, 1);
    let picture = RgbImage::from_pixel(4, 4, Rgb([200, 200, 200]));
    let rubric = RubricSet::from_text("Bright.").unwrap();
    let long = "word ".repeat(10_000);
    let pair = JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: &long,
        sources: &[],
        first: &picture,
        second: &picture,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let records = judge.judge(&[pair]).unwrap();
    assert!(failed(&records[0]).contains("50000 bytes"), "{records:?}");
    assert_eq!(server.stub.calls(), 0);
}
