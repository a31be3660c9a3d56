use super::super::tests::{full, problems};
use super::*;

/// A judge that is a server, over the quickstart.
const SERVER: &str = "family = \"openai\"\npath = \"\"\nendpoint = \"http://localhost:8000/v1\"\nmodel = \"vlm\"\n";

#[test]
fn a_judge_has_what_its_family_needs_and_nothing_else() {
    assert_eq!(problems(&format!("[judge]\n{SERVER}")), [""; 0]);
    let member = "[[judge.members]]\npath = \"models/tiny-judge\"\n";
    let ensemble = "[judge]\nfamily = \"ensemble\"\npath = \"\"\n";
    assert_eq!(
        problems(&format!("{ensemble}{member}weight = 2.5\n[[judge.members]]\n{SERVER}")),
        [""; 0]
    );
    for (overlay, key) in [
        ("[judge]\nendpoint = \"http://localhost\"".to_owned(), "judge.endpoint"),
        (format!("[judge]\n{SERVER}").replace("http:", "ftp:"), "judge.endpoint"),
        (
            format!("[judge]\n{SERVER}").replace("localhost", "me:key@localhost"),
            "judge.endpoint",
        ),
        (format!("[judge]\n{SERVER}").replace("vlm", ""), "judge.model"),
        (format!("[judge]\n{SERVER}").replace("path = \"\"", ""), "judge.path"),
        (
            format!("[judge]\n{SERVER}api_key_env = \"sk-123\""),
            "judge.api_key_env",
        ),
        (format!("[judge]\n{SERVER}timeout = \"0s\""), "judge.timeout"),
        (format!("[judge]\n{SERVER}concurrency = 0"), "judge.concurrency"),
        (format!("[judge]\n{SERVER}attempts = 0"), "judge.attempts"),
        (format!("[judge]\n{SERVER}prompt_price = -1"), "judge.prompt_price"),
        ("[judge]\ntimeout = \"2m\"".to_owned(), "judge.timeout"),
        ("[judge]\nconcurrency = 2".to_owned(), "judge.concurrency"),
        ("[judge]\nfamily = \"qwen4_vl\"".to_owned(), "judge.family"),
        ("[judge]\nfamily = 3".to_owned(), "judge.family"),
        ("[judge]\nmembers = 3".to_owned(), "judge.members"),
        (format!("{ensemble}members = 3"), "judge.members"),
        (
            format!("{ensemble}{member}{member}wieght = 2.0"),
            "judge.members[1].wieght",
        ),
        (
            format!("{ensemble}{member}{member}weight = \"two\""),
            "judge.members[1].weight",
        ),
        (
            format!("{ensemble}{member}{member}device = \"gpu\""),
            "judge.members[1].device",
        ),
        ("[judge]\nweight = 2.0".to_owned(), "judge.weight"),
        (format!("[judge]\n{member}{member}"), "judge.members"),
        (format!("{ensemble}{member}"), "judge.members"),
        (
            format!("{ensemble}{member}{member}weight = 0.0"),
            "judge.members[1].weight",
        ),
        (format!("{ensemble}{member}{member}batch = 2"), "judge.members[1].batch"),
        (
            format!("{ensemble}{member}{member}reasons = {{ template = \"reason.toml\" }}"),
            "judge.members[1].reasons",
        ),
        ("[judge.reasons]\nfraction = 0.5".to_owned(), "judge.reasons.template"),
        ("[judge.writer]\ncriteria = 3".to_owned(), "judge.writer.template"),
        ("[judge]\norders = \"one\"".to_owned(), "judge.orders"),
        ("[judge]\norders_trust = 0.1".to_owned(), "judge.orders_trust"),
        ("[judge]\norders_window = 2".to_owned(), "judge.orders_window"),
        ("[judge]\norders_recheck = 0.5".to_owned(), "judge.orders_recheck"),
        (
            "[judge]\norders = \"adaptive\"\norders_trust = 1.0".to_owned(),
            "judge.orders_trust",
        ),
        (
            "[judge]\norders = \"adaptive\"\norders_window = 0".to_owned(),
            "judge.orders_window",
        ),
        (
            "[judge]\norders = \"adaptive\"\norders_recheck = 0.0".to_owned(),
            "judge.orders_recheck",
        ),
        (
            "[judge]\nfamily = \"evaluator\"\npath = \"\"\norders = \"adaptive\"".to_owned(),
            "judge.orders",
        ),
        ("[judge]\nmin_distance = 0.0".to_owned(), "judge.min_distance"),
        ("[judge]\nmin_distance = 1.5".to_owned(), "judge.min_distance"),
        (
            format!("{ensemble}{member}{member}min_distance = 0.1"),
            "judge.members[1].min_distance",
        ),
        (
            "[judge.writer]\ntemplate = \"write.toml\"\ncriteria = 0".to_owned(),
            "judge.writer.criteria",
        ),
        (
            "[judge.writer]\ntemplate = \"write.toml\"\nnearest = 17".to_owned(),
            "judge.writer.nearest",
        ),
        (
            "[judge.reasons]\ntemplate = \"reason.toml\"\nfraction = 0.0".to_owned(),
            "judge.reasons.fraction",
        ),
        (
            "[judge.reasons]\ntemplate = \"reason.toml\"\nmax_tokens = 0".to_owned(),
            "judge.reasons.max_tokens",
        ),
        (
            format!("{ensemble}{member}{member}family = \"ensemble\"").replacen(
                "path = \"models/tiny-judge\"\nfamily",
                "family",
                1,
            ),
            "judge.members[1].family",
        ),
        (
            format!("{ensemble}{member}{member}margin = 0.5"),
            "judge.members[1].margin",
        ),
    ] {
        let found = problems(&overlay);
        assert_eq!(found.len(), 1, "{overlay}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{overlay}: {found:?}");
    }
    // No key is ever repeated.
    let told = problems(&format!("[judge]\n{SERVER}api_key_env = \"sk-123\""));
    assert!(!told[0].contains("sk-123"), "{told:?}");
}

#[test]
fn what_a_file_says_of_another_kind_of_judge_is_told_by_name_unless_it_says_nothing() {
    assert_eq!(
        problems(&format!("[judge]\n{SERVER}members = [{{}}]")),
        ["judge.members: only a judge of family \"ensemble\" has it: remove it, or choose another family"]
    );
    assert_eq!(
        problems(&format!("[judge]\n{SERVER}").replace("path = \"\"", "")),
        [
            "judge.path: only a judge of family \"qwen2_5_vl\", \"qwen3_vl\", \"auto\" or \"clip\" has it: remove it, or choose \
             another family"
        ]
    );
    // An empty text is how `--set` takes a value back, and the quickstart has a device and a number format.
    assert_eq!(
        problems("[judge]\nendpoint = \"\"\nmodel = \"\"\ntimeout = \"1m\"\nattempts = 5"),
        [""; 0]
    );
    assert_eq!(
        problems("[judge]\nfamily = \"qwen3\""),
        [
            "judge.family: must be one of `qwen2_5_vl`, `qwen3_vl`, `auto`, `openai`, `scorer`, `evaluator`, `clip`, \
             `ensemble`, not \"qwen3\"; \
             did you mean `qwen3_vl`?"
        ]
    );
}

#[test]
fn a_held_out_judge_is_a_judge_with_a_share_and_without_what_only_the_first_has() {
    let held_out = "[judge.held_out]\npath = \"m\"\ntemplate = \"t\"\nrubric = \"r\"\n";
    assert_eq!(problems(held_out), [""; 0]);
    let server = format!("{held_out}share = 1.0\n{SERVER}").replace("path = \"m\"\n", "");
    assert_eq!(problems(&server), [""; 0]);
    for (more, key) in [
        ("share = 0.0", "judge.held_out.share"),
        ("share = 1.5", "judge.held_out.share"),
        ("margin = 0.5", "judge.held_out.margin"),
        ("batch = 4", "judge.held_out.batch"),
        ("weight = 2.0", "judge.held_out.weight"),
        ("reasons = { template = \"reason.toml\" }", "judge.held_out.reasons"),
        ("writer = { template = \"write.toml\" }", "judge.held_out.writer"),
        ("held_out = { path = \"m\" }", "judge.held_out.held_out"),
        ("orders = \"adaptive\"", "judge.held_out.orders"),
        ("min_distance = 0.1", "judge.held_out.min_distance"),
        ("endpoint = \"http://localhost\"", "judge.held_out.endpoint"),
        ("rubrik = \"r\"", "judge.held_out.rubrik"),
    ] {
        let found = problems(&format!("{held_out}{more}"));
        assert_eq!(found.len(), 1, "{more}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{more}: {found:?}");
    }
    assert_eq!(
        problems("[judge.held_out]\nshare = 0.5"),
        [
            "judge.held_out.path: must be set: the folder of the judge model, in the transformers layout",
            "judge.held_out.template: must be set: a judge template such as configs/judge/instruct.toml",
            "judge.held_out.rubric: must be set: a rubric set, or a text file of criteria",
        ],
        "nothing is taken over from the judge"
    );
    assert!(problems("[judge]\nheld_out = 3")[0].starts_with("judge.held_out: must be a table"));
    assert!(problems("[judge]\nshare = 0.5")[0].starts_with("judge.share: unknown key"));
}

#[test]
fn a_writer_may_name_a_model_of_its_own_and_an_embedding() {
    let writer = "[judge.writer]\ntemplate = \"t\"\n";
    let hosted = format!("{writer}family = \"auto\"\npath = \"m\"\ndevice = \"cuda:1\"\ndtype = \"f32\"\n");
    let server = format!("{writer}{}", SERVER.replace("path = \"\"\n", ""));
    let scores = "[judge]\nfamily = \"evaluator\"\npath = \"\"\n";
    let folder = "nearest = 1\nembedding = { path = \"flux\" }";
    for sound in [
        writer.to_owned(),
        hosted.clone(),
        format!("{server}api_key_env = \"GAVEL_JUDGE_KEY\"\nprompt_price = 2.0"),
        format!("{scores}{hosted}"),
        format!("{writer}{folder}"),
        format!(
            "{server}nearest = 1\nembedding = {{ family = \"openai\", endpoint = \"http://h\", model = \"e\", attempts = 2 }}"
        ),
    ] {
        assert_eq!(problems(&sound), [""; 0], "{sound}");
    }
    for (overlay, key) in [
        (format!("{writer}path = \"m\""), "judge.writer.path"),
        (format!("{writer}endpoint = \"http://h\""), "judge.writer.endpoint"),
        (format!("{writer}family = \"auto\""), "judge.writer.path"),
        (
            format!("{writer}family = \"openai\"\nendpoint = \"http://h\""),
            "judge.writer.model",
        ),
        (format!("{server}timeout = \"0s\""), "judge.writer.timeout"),
        (
            format!("{writer}family = \"qwen4_vl\"\npath = \"m\""),
            "judge.writer.family",
        ),
        (format!("{writer}family = \"evaluator\""), "judge.writer.family"),
        (
            format!("{writer}family = \"clip\"\npath = \"m\""),
            "judge.writer.family",
        ),
        (
            format!("{writer}family = \"scorer\"\nendpoint = \"http://h\""),
            "judge.writer.family",
        ),
        (
            format!("{writer}family = \"ensemble\"\nmembers = [{{ path = \"a\" }}, {{ path = \"b\" }}]"),
            "judge.writer.family",
        ),
        (format!("{scores}{writer}"), "judge.writer"),
        (format!("{hosted}rubric = \"r\""), "judge.writer.rubric"),
        (format!("{hosted}margin = 0.2"), "judge.writer.margin"),
        (format!("{hosted}weight = 2.0"), "judge.writer.weight"),
        (format!("{hosted}model = \"vlm\""), "judge.writer.model"),
        (format!("{hosted}criterions = 3"), "judge.writer.criterions"),
        (format!("{writer}embedding = 3"), "judge.writer.embedding"),
        (
            format!("{writer}embedding = {{ path = \"flux\" }}"),
            "judge.writer.embedding",
        ),
        (
            format!("{writer}{folder}").replace("flux", ""),
            "judge.writer.embedding.path",
        ),
        (
            format!("{writer}{folder}").replace("path", "family = \"clip\", path"),
            "judge.writer.embedding.family",
        ),
        (
            format!("{writer}{folder}").replace("path", "model = \"e\", path"),
            "judge.writer.embedding.model",
        ),
        (
            format!("{writer}{folder}").replace("path", "folder"),
            "judge.writer.embedding.folder",
        ),
        (
            format!("{writer}nearest = 1\nembedding = {{ family = \"openai\", endpoint = \"http://h\" }}"),
            "judge.writer.embedding.model",
        ),
    ] {
        let found = problems(&overlay);
        let of_folder = |found: &str| found.starts_with("judge.writer.embedding.path: must be set");
        let found: Vec<&String> = match key.ends_with("folder") {
            true => found.iter().filter(|found| !of_folder(found)).collect(),
            false => found.iter().collect(),
        };
        assert_eq!(found.len(), 1, "{overlay}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{overlay}: {found:?}");
    }
    assert_eq!(
        problems(&format!("{writer}path = \"m\"")),
        ["judge.writer.path: the judge's own model writes: set judge.writer.family too for another one, or remove it"]
    );
    assert!(problems("[judge]\nwriter = 3")[0].starts_with("judge.writer: must be a table"));
}

#[test]
fn a_writer_in_json_is_one_table_comes_back_and_is_as_it_was_where_it_names_no_model() {
    let before = serde_json::to_value(WriterSpec::default()).unwrap();
    let keys: Vec<&String> = before.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["template", "criteria", "nearest", "max_tokens", "combine"]);
    let spec = full().judge;
    let text = serde_json::to_value(&spec).unwrap();
    assert_eq!(text["writer"]["family"], "auto");
    assert_eq!(text["writer"]["embedding"]["family"], "clip_text");
    let back: JudgeSpec = serde_json::from_value(text).unwrap();
    assert_eq!(back, spec);
    let duties: Vec<(String, Duty)> = back.opened().map(|judge| (judge.at(), judge.duty)).collect();
    assert_eq!(duties.last().unwrap(), &("judge.writer".to_owned(), Duty::RubricWriter));
    assert_eq!(back.rubric_writer(), back.writer.as_ref().unwrap().back_end.as_ref());
}

#[test]
fn rubrics_are_kept_for_every_run_unless_nothing_is() {
    let keeps = |cache| {
        let spec = JudgeSpec {
            cache,
            ..JudgeSpec::default()
        };
        (spec.caches(), spec.keeps_rubrics())
    };
    assert_eq!(
        [keeps(None), keeps(Some(true)), keeps(Some(false))],
        [(false, true), (true, true), (false, false)]
    );
}

#[test]
fn a_judge_in_json_is_one_table_and_comes_back() {
    let spec = full().judge;
    let text = serde_json::to_value(&spec).unwrap();
    assert_eq!(text["family"], "ensemble");
    assert_eq!(text["members"][1]["family"], "openai");
    assert_eq!(text["members"][1].get("path"), None);
    assert_eq!(serde_json::from_value::<JudgeSpec>(text.clone()).unwrap(), spec);
    let with = |key: &str, value: serde_json::Value| {
        let mut text = text.clone();
        text[key] = value;
        serde_json::from_value::<JudgeSpec>(text)
    };
    // Keys of other kinds, as earlier versions wrote them, are passed over; what is no key is not.
    assert_eq!(with("path", "models/judge".into()).unwrap(), spec);
    let error = with("pth", "x".into()).unwrap_err().to_string();
    assert!(error.contains("judge.pth: unknown key"), "{error}");
    let error = with("batch", "x".into()).unwrap_err().to_string();
    assert!(error.contains("judge.batch"), "{error}");
}

#[test]
fn scores_are_judges_with_keys_of_their_own() {
    let scorer = "[judge]\nfamily = \"scorer\"\npath = \"\"\nendpoint = \"http://localhost/score\"\n";
    let evaluator = "[judge]\nfamily = \"evaluator\"\npath = \"\"\nevaluator = \"edits\"\n";
    let clip = "[judge]\nfamily = \"clip\"\npath = \"pickscore\"\n";
    for sound in [
        clip.to_owned(),
        format!("{clip}temperature = 2.0\ndevice = \"cuda:1\"\ndtype = \"f16\""),
        scorer.to_owned(),
        format!("{scorer}temperature = 0.5\napi_key_env = \"GAVEL_JUDGE_KEY\"\nmargin = 0.1"),
        evaluator.to_owned(),
        format!("{evaluator}temperature = 0.1"),
    ] {
        assert_eq!(problems(&sound), [""; 0], "{sound}");
    }
    for (overlay, key) in [
        (format!("{scorer}temperature = 0.0"), "judge.temperature"),
        (format!("{scorer}temperature = inf"), "judge.temperature"),
        (format!("{scorer}timeout = \"0s\""), "judge.timeout"),
        (format!("{scorer}api_key_env = \"sk-123\""), "judge.api_key_env"),
        (format!("{scorer}model = \"vlm\""), "judge.model"),
        (scorer.replace("http:", "ftp:"), "judge.endpoint"),
        (clip.replace("pickscore", ""), "judge.path"),
        (format!("{clip}endpoint = \"http://localhost\""), "judge.endpoint"),
        (format!("{clip}temperature = nan"), "judge.temperature"),
        (format!("{evaluator}temperature = -1"), "judge.temperature"),
        (evaluator.replace("edits", "clocks"), "judge.evaluator"),
        ("[judge]\ntemperature = 2.0".to_owned(), "judge.temperature"),
        (
            format!("{evaluator}reasons = {{ template = \"reason.toml\" }}"),
            "judge.reasons",
        ),
    ] {
        let found = problems(&overlay);
        assert_eq!(found.len(), 1, "{overlay}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{overlay}: {found:?}");
    }
}

#[test]
fn a_member_without_votes_has_a_veto_and_somebody_has_a_vote() {
    let ensemble = "[judge]\nfamily = \"ensemble\"\npath = \"\"\n";
    let model = "[[judge.members]]\npath = \"models/tiny-judge\"\n";
    let rules = "[[judge.members]]\nfamily = \"evaluator\"\n";
    let reasons = "reasons = { template = \"reason.toml\" }\n";
    assert_eq!(
        problems(&format!("{ensemble}{reasons}{rules}weight = 0.0\nveto = true\n{model}")),
        [""; 0],
        "the second writes"
    );
    for (overlay, key) in [
        (
            format!("{ensemble}{rules}weight = 0.0\n{model}"),
            "judge.members[0].weight",
        ),
        (
            format!("{ensemble}{rules}weight = -1.0\nveto = true\n{model}"),
            "judge.members[0].weight",
        ),
        (
            format!("{ensemble}{rules}weight = 0.0\nveto = true\n{rules}weight = 0.0\nveto = true"),
            "judge.members",
        ),
        (format!("{ensemble}{reasons}{rules}{rules}"), "judge.reasons"),
        ("[judge]\nveto = true".to_owned(), "judge.veto"),
    ] {
        let found = problems(&overlay);
        assert_eq!(found.len(), 1, "{overlay}: {found:?}");
        assert!(found[0].starts_with(&format!("{key}: ")), "{overlay}: {found:?}");
    }
}

#[test]
fn a_member_without_a_veto_is_written_as_it_was_before_there_were_any() {
    let written = |veto| {
        let member = MemberSpec {
            veto,
            ..MemberSpec::default()
        };
        serde_json::to_value(member).unwrap()
    };
    assert_eq!(written(false).get("veto"), None);
    assert_eq!(written(true)["veto"], true);
    assert!(serde_json::from_value::<MemberSpec>(written(true)).unwrap().veto);
}
