//! The shipped small judge on the shipped labelled pairs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use gavel_core::{
    LabelledPair, RubricText, RunAssets,
    ids::{Digest, PromptIndex, RunId, Step},
    spec::{Dtype, EmbeddingSpec, InProcessFamily, InProcessSpec, JudgeBackEnd, RunSpec, TextEncoderSpec, WriterSpec},
    work::{AbstainReason, Orders, Side, Verdict, VerdictRecord},
    work::{Assignment, Outcome, Pair, PromptPlace, Task, TaskList, Unit},
};
use gavel_judge::{Error, VlmJudge};
use gavel_judge_worker::JudgeWork;
use gavel_models::load::Placement;
use gavel_models::vlm::Vlm;
use gavel_rubric::{Judge as _, JudgeTemplate, JudgedPair, RubricSet, Rubrics};
use gavel_worker::{Work, WorkContext, WorkError};
use image::RgbImage;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

static MODEL: LazyLock<Arc<Vlm>> =
    LazyLock::new(|| Arc::new(Vlm::load(&root().join("models/tiny-judge"), &Placement::cpu()).unwrap()));

static RUBRIC: LazyLock<RubricSet> = LazyLock::new(|| {
    let rubrics = Rubrics::load(&root().join("configs/quickstart/rubric.toml")).unwrap();
    rubrics.general().clone()
});

fn judge(margin: f64) -> VlmJudge {
    let template = JudgeTemplate::load(&root().join("configs/judge/small.toml")).unwrap();
    VlmJudge::new("small".into(), Digest([1; 32]), MODEL.clone(), template, margin).unwrap()
}

fn verdicts(judge: &VlmJudge, pairs: &[JudgedPair<'_>]) -> Vec<VerdictRecord> {
    judge.judge(pairs).unwrap()
}

fn verdict(judge: &VlmJudge, caption: &str, first: &RgbImage, second: &RgbImage) -> VerdictRecord {
    let pair = JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: caption,
        sources: &[],
        first,
        second,
        rubric: &RUBRIC,
        orders: Orders::Both,
        list: &[],
    };
    verdicts(judge, &[pair]).swap_remove(0)
}

struct Labelled {
    caption: String,
    images: [RgbImage; 2],
    files: [PathBuf; 2],
    preferred: Side,
}

fn labelled(count: usize) -> Vec<Labelled> {
    let folder = root().join("configs/quickstart/labelled");
    let lines = std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    let read = |line: &str| {
        let pair: Value = serde_json::from_str(line).unwrap();
        let files = [0, 1].map(|side| folder.join(pair["response"][side].as_str().unwrap()));
        Labelled {
            caption: pair["query"].as_str().unwrap().to_owned(),
            images: files.each_ref().map(|file| image::open(file).unwrap().to_rgb8()),
            files,
            preferred: if pair["label_rank"][0] == 1 {
                Side::First
            } else {
                Side::Second
            },
        }
    };
    lines.lines().take(count).map(read).collect()
}

fn judged(pairs: &[Labelled]) -> Vec<JudgedPair<'_>> {
    pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| pair_of(index, pair))
        .collect()
}

fn pair_of(index: usize, pair: &Labelled) -> JudgedPair<'_> {
    let [first, second] = &pair.images;
    JudgedPair {
        prompt_index: PromptIndex(index as u32),
        prompt: &pair.caption,
        sources: &[],
        first,
        second,
        rubric: &RUBRIC,
        orders: Orders::Both,
        list: &[],
    }
}

#[test]
fn the_small_judge_is_mostly_right_and_mostly_consistent() {
    let pairs = labelled(40);
    let records = verdicts(&judge(0.0), &judged(&pairs));
    let decided: Vec<(&VerdictRecord, Side)> = records
        .iter()
        .zip(&pairs)
        .filter(|(record, _)| matches!(record.verdict, Verdict::Preferred { .. }))
        .map(|(record, pair)| (record, pair.preferred))
        .collect();
    let right = decided
        .iter()
        .filter(|(record, label)| record.verdict == Verdict::Preferred { side: *label })
        .count();
    // models/README.md has what was measured: on these pairs, all agree and are right.
    assert!(decided.len() >= 32, "{} of 40 decided", decided.len());
    assert!(right * 10 >= decided.len() * 9, "{right} of {} right", decided.len());
    for record in &records {
        assert_eq!(record.rubric, RUBRIC.digest());
        let mean = 0.5 * (record.order_probabilities[0] + record.order_probabilities[1]);
        assert_eq!(record.probability_first, mean);
    }
}

#[test]
fn swapped_images_mirror_the_verdict() {
    let pairs = labelled(6);
    let judge = judge(0.0);
    for pair in &pairs {
        let [first, second] = &pair.images;
        let record = verdict(&judge, &pair.caption, first, second);
        let mirrored = verdict(&judge, &pair.caption, second, first);
        for (order, swapped) in record
            .order_probabilities
            .iter()
            .zip(mirrored.order_probabilities.iter().rev())
        {
            assert!((order + swapped - 1.0).abs() < 1e-12);
        }
        let expected = match record.verdict {
            Verdict::Preferred { side: Side::First } => Verdict::Preferred { side: Side::Second },
            Verdict::Preferred { side: Side::Second } => Verdict::Preferred { side: Side::First },
            other => other,
        };
        assert_eq!(mirrored.verdict, expected);
    }
}

#[test]
fn a_pair_is_judged_alike_alone_and_in_a_batch() {
    let pairs = labelled(3);
    let judge = judge(0.0);
    let batch = verdicts(&judge, &judged(&pairs));
    for (pair, expected) in judged(&pairs).iter().zip(&batch) {
        assert_eq!(verdicts(&judge, &[*pair]), std::slice::from_ref(expected));
    }
}

#[test]
fn a_pair_that_cannot_be_judged_fails_alone() {
    let pairs = labelled(3);
    let judge = judge(0.0);
    let mut asked = judged(&pairs);
    let long = "a red circle ".repeat(2000);
    asked[1].prompt = &long;
    let records = verdicts(&judge, &asked);
    assert!(
        matches!(&records[1].verdict, Verdict::Failed { reason } if reason.contains("26000 bytes")),
        "{records:?}"
    );
    for place in [0, 2] {
        assert_eq!(
            verdicts(&judge, &asked[place..=place]),
            std::slice::from_ref(&records[place])
        );
    }
}

#[test]
fn equal_images_are_never_decided() {
    let pairs = labelled(1);
    let [image, _] = &pairs[0].images;
    let record = verdict(&judge(0.0), &pairs[0].caption, image, image);
    assert!((record.probability_first - 0.5).abs() < 1e-12);
    let reasons = [AbstainReason::OrdersDisagree, AbstainReason::TooClose].map(|reason| Verdict::Abstain { reason });
    assert!(reasons.contains(&record.verdict), "{:?}", record.verdict);
}

#[test]
fn a_wide_margin_leaves_less_decided() {
    let pairs = labelled(12);
    let decided = |margin: f64| {
        let records = verdicts(&judge(margin), &judged(&pairs));
        records
            .iter()
            .filter(|record| matches!(record.verdict, Verdict::Preferred { .. }))
            .count()
    };
    assert!(decided(0.499_999) < decided(0.0));
}

#[test]
fn a_label_that_is_no_single_token_is_refused() {
    let text = std::fs::read_to_string(root().join("configs/judge/small.toml")).unwrap();
    let text = text.replace(r#"labels = ["1", "2"]"#, r#"labels = ["the left circle", "2"]"#);
    let template = JudgeTemplate::parse(&text, Path::new("changed.toml")).unwrap();
    let error = VlmJudge::new("small".into(), Digest([1; 32]), MODEL.clone(), template, 0.0)
        .err()
        .unwrap();
    assert!(matches!(error, Error::Model(_)), "{error}");
    assert!(error.to_string().contains("`the left circle`"), "{error}");
}

fn spec() -> RunSpec {
    let text = std::fs::read_to_string(root().join("configs/quickstart.toml")).unwrap();
    let mut spec = RunSpec::from_value(text.parse().unwrap()).unwrap();
    spec.judge.back_end = hosted("models/tiny-judge");
    spec
}

fn hosted(folder: &str) -> JudgeBackEnd {
    let spec = InProcessSpec {
        family: InProcessFamily::Qwen2_5Vl,
        path: root().join(folder),
        dtype: Dtype::F32,
        ..InProcessSpec::default()
    };
    spec.into()
}

fn assets() -> RunAssets {
    let template = std::fs::read_to_string(root().join("configs/judge/small.toml")).unwrap();
    RunAssets {
        rubric: RubricText::new(RUBRIC.text()),
        prompt_rubrics: Default::default(),
        template,
        ..RunAssets::default()
    }
}

fn unit() -> Unit {
    Unit::Judge {
        step: Step(1),
        chunk: 0,
    }
}

#[test]
fn the_unit_gives_the_verdicts_of_the_offline_judge() {
    let pairs = labelled(2);
    let context = WorkContext::in_memory().unwrap();
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec(), &assets()).unwrap();
    let put = |file: &PathBuf| context.put(std::fs::read(file).unwrap());
    let assigned: Vec<Pair> = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| Pair {
            prompt_index: PromptIndex(index as u32),
            task: pair.caption.clone().into(),
            first: put(&pair.files[0]),
            second: put(&pair.files[1]),
            rubric: None,
            orders: Orders::Both,
        })
        .collect();
    let outcome = work
        .perform(&unit(), &Assignment::Judge { pairs: assigned }, &context)
        .unwrap();
    let Outcome::Judged {
        verdicts: mut judged_by_unit,
        spent: None,
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    for record in &mut judged_by_unit {
        let difference = record.difference.take().expect("both pictures have one size");
        assert!(difference > 0.0 && difference < 1.0, "{difference}");
    }
    assert_eq!(judged_by_unit, verdicts(&judge(spec().judge.margin), &judged(&pairs)));
}

#[test]
fn one_order_gives_the_answer_that_it_has_among_both() {
    let pairs = labelled(4);
    let judge = judge(0.0);
    let both = verdicts(&judge, &judged(&pairs));
    let orders = [Orders::Swapped, Orders::Straight, Orders::Both, Orders::Swapped];
    let asked = judged(&pairs).into_iter().zip(orders);
    let asked: Vec<_> = asked.map(|(pair, orders)| JudgedPair { orders, ..pair }).collect();
    for ((record, both), orders) in verdicts(&judge, &asked).iter().zip(&both).zip(orders) {
        let [straight, swapped] = both.order_probabilities;
        let expected = match orders {
            Orders::Both => [straight, swapped],
            Orders::Straight => [straight; 2],
            Orders::Swapped => [swapped; 2],
        };
        assert_eq!((record.orders, record.order_probabilities), (orders, expected));
        assert_eq!(record.verdict, both.verdict, "these orders agree");
    }
}

#[test]
fn the_judge_is_not_asked_about_pictures_that_are_too_alike() {
    let pairs = labelled(3);
    let context = WorkContext::in_memory().unwrap();
    let put = |file: &PathBuf| context.put(std::fs::read(file).unwrap());
    let assigned: Vec<Pair> = (0..)
        .zip(&pairs)
        .map(|(index, pair)| Pair {
            prompt_index: PromptIndex(index),
            task: pair.caption.clone().into(),
            first: put(&pair.files[0]),
            second: put(&pair.files[1]),
            rubric: None,
            orders: Orders::Both,
        })
        .collect();
    let records_of = |min_distance, unit: Unit| {
        let mut spec = spec();
        spec.judge.min_distance = min_distance;
        let mut work = JudgeWork::default();
        work.prepare(&RunId("run".into()), &spec, &assets()).unwrap();
        let pairs = assigned.clone();
        match work.perform(&unit, &Assignment::Judge { pairs }, &context).unwrap() {
            Outcome::Judged { verdicts, .. } => verdicts,
            outcome => panic!("{outcome:?}"),
        }
    };
    let all = records_of(None, unit());
    let mut distances: Vec<f64> = all.iter().map(|record| record.difference.unwrap()).collect();
    distances.sort_by(f64::total_cmp);
    // The nearest of the three is left out, the others are what they were.
    let between = 0.5 * (distances[0] + distances[1]);
    for (record, before) in records_of(Some(between), unit()).iter().zip(&all) {
        assert_eq!(record.difference, before.difference);
        match record.difference.unwrap() < between {
            true => {
                let left_out = VerdictRecord::too_alike(before.prompt_index, before.rubric);
                assert_eq!(
                    (&record.verdict, record.prompt_index),
                    (&left_out.verdict, left_out.prompt_index)
                );
            }
            false => assert_eq!(record, before),
        }
    }
    // Nobody is left to be asked about, and what is measured is measured on all pairs.
    assert!(records_of(Some(1.0), unit()).iter().all(VerdictRecord::is_too_alike));
    assert_eq!(records_of(Some(1.0), Unit::CalibrateJudge { chunk: 0 }), all);
}

#[test]
fn each_pair_of_a_unit_is_judged_by_the_rubric_of_its_prompt() {
    let pairs = labelled(3);
    let context = WorkContext::in_memory().unwrap();
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec(), &assets()).unwrap();
    let own = RubricSet::from_text("The shapes are clean, with nothing extra.").unwrap();
    let named = context.put(own.text().into_bytes());
    assert_eq!(named, own.digest(), "a rubric's blob is named by its fingerprint");
    let put = |file: &PathBuf| context.put(std::fs::read(file).unwrap());
    let pair = |index: usize, rubric| Pair {
        prompt_index: PromptIndex(index as u32),
        task: pairs[index].caption.clone().into(),
        first: put(&pairs[index].files[0]),
        second: put(&pairs[index].files[1]),
        rubric,
        orders: Orders::Both,
    };
    let assigned = vec![pair(0, None), pair(1, Some(named)), pair(2, None)];
    let outcome = work.perform(&unit(), &Assignment::Judge { pairs: assigned }, &context);
    let Outcome::Judged { verdicts: records, .. } = outcome.unwrap() else {
        panic!("a judge judges")
    };
    let judge = judge(spec().judge.margin);
    let expected = [&*RUBRIC, &own, &*RUBRIC]
        .into_iter()
        .enumerate()
        .map(|(index, rubric)| {
            let pair = JudgedPair {
                rubric,
                ..pair_of(index, &pairs[index])
            };
            judge.judge(&[pair]).unwrap().swap_remove(0)
        });
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(
            (record.rubric, record.order_probabilities),
            (expected.rubric, expected.order_probabilities)
        );
    }
    assert_eq!(records[1].rubric, named);

    let nonsense = context.put(b"\n".to_vec());
    let unit_of = |rubric| Assignment::Judge {
        pairs: vec![pair(0, Some(rubric))],
    };
    let error = work.perform(&unit(), &unit_of(nonsense), &context).unwrap_err();
    assert!(error.to_string().contains("is no rubric"), "{error}");
}

/// A run whose judge writes the rubric of each prompt from the labelled pair that is nearest to it.
fn writing(labelled: &[Labelled], context: &WorkContext) -> (RunSpec, RunAssets) {
    let mut spec = spec();
    spec.judge.writer = Some(WriterSpec {
        nearest: 1,
        max_tokens: 400,
        ..WriterSpec::default()
    });
    let template = std::fs::read_to_string(root().join("configs/rubric/small/write.toml")).unwrap();
    let put = |file: &PathBuf| context.put(std::fs::read(file).unwrap());
    let pairs = labelled.iter().map(|pair| LabelledPair {
        task: pair.caption.clone().into(),
        first: put(&pair.files[0]),
        second: put(&pair.files[1]),
        preferred: pair.preferred,
    });
    let assets = RunAssets {
        labelled: pairs.collect(),
        writer_template: Some(template),
        ..assets()
    };
    (spec, assets)
}

#[test]
fn a_prompts_rubric_is_written_from_the_labelled_pair_that_is_nearest_to_it() {
    let pairs = labelled(6);
    let context = WorkContext::in_memory().unwrap();
    let (spec, assets) = writing(&pairs, &context);
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec, &assets).unwrap();
    let place = PromptPlace {
        list: TaskList::Prompts,
        index: 0,
    };
    let mut write = |words: &str| {
        let assignment = Assignment::WriteRubric { task: words.into() };
        let outcome = work.perform(&Unit::WriteRubric { place }, &assignment, &context);
        let Outcome::RubricWritten {
            rubric, spent: None, ..
        } = outcome.unwrap()
        else {
            panic!("a writer writes")
        };
        rubric.map(|rubric| {
            let text = context.get(&rubric).unwrap();
            let set = RubricSet::from_text(std::str::from_utf8(&text).unwrap()).unwrap();
            assert_eq!(set.digest(), rubric, "a rubric's blob is named by its fingerprint");
            (rubric, set)
        })
    };
    // A prompt that none of the pairs is of: nothing verifies its set.
    let words = pairs[0].caption.replace("background", "ground");
    assert!(pairs.iter().all(|pair| pair.caption != words), "{words}");
    let (digest, set) = write(&words).unwrap();
    let criteria = set.criteria().count();
    assert!((1..=5).contains(&criteria), "{criteria} criteria");
    assert_ne!(digest, assets.rubric.digest);
    assert_eq!(
        write(&words).map(|(again, _)| again),
        Some(digest),
        "written twice it is the same"
    );
    // The general set decides where its own would decide worse on the prompt's own pairs: nothing else may come of these.
    for pair in &pairs {
        let own = write(&pair.caption).map(|(_, set)| set);
        let right = |set: &RubricSet| {
            let judged = JudgedPair {
                rubric: set,
                ..pair_of(0, pair)
            };
            let verdict = judge(spec.judge.margin)
                .judge(&[judged])
                .unwrap()
                .swap_remove(0)
                .verdict;
            verdict == Verdict::Preferred { side: pair.preferred }
        };
        assert!(own.is_none_or(|own| right(&own) || !right(&RUBRIC)), "{}", pair.caption);
    }
}

/// What was written for each of these prompts, and by which model.
fn all_written(
    spec: &RunSpec,
    assets: &RunAssets,
    context: &WorkContext,
    prompts: &[&str],
) -> Vec<(Option<Digest>, Digest)> {
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), spec, assets).unwrap();
    let place = PromptPlace {
        list: TaskList::Prompts,
        index: 0,
    };
    let write = |prompt: &&str| {
        let assignment = Assignment::WriteRubric { task: (*prompt).into() };
        match work
            .perform(&Unit::WriteRubric { place }, &assignment, context)
            .unwrap()
        {
            Outcome::RubricWritten { rubric, model, .. } => (rubric, model),
            outcome => panic!("a writer writes, not {outcome:?}"),
        }
    };
    prompts.iter().map(write).collect()
}

#[test]
fn another_model_writes_and_an_embedding_finds_what_it_is_shown() {
    let context = WorkContext::in_memory().unwrap();
    let (spec, assets) = writing(&labelled(40), &context);
    let prompts = [
        "two blue squares",
        "a circle",
        "red on green",
        "a white triangle to the left",
    ];
    let by_judge = all_written(&spec, &assets, &context, &prompts);
    let with = |change: &dyn Fn(&mut WriterSpec)| {
        let mut spec = spec.clone();
        change(spec.judge.writer.as_mut().unwrap());
        all_written(&spec, &assets, &context, &prompts)
    };
    // The same model by its own name writes the same, and is known by another fingerprint.
    let by_other = with(&|writer| writer.back_end = Some(hosted("models/tiny-judge")));
    let texts = |written: &[(Option<Digest>, Digest)]| written.iter().map(|(text, _)| *text).collect::<Vec<_>>();
    assert_eq!(texts(&by_judge), texts(&by_other));
    assert!(
        by_judge
            .iter()
            .zip(&by_other)
            .all(|((_, judge), (_, other))| judge != other)
    );
    let by_meaning = with(&|writer| {
        writer.embedding = Some(EmbeddingSpec::TextEncoder(TextEncoderSpec {
            path: root().join("models/tiny-flux"),
            ..TextEncoderSpec::default()
        }));
    });
    assert_ne!(texts(&by_judge), texts(&by_meaning), "other pairs are near");
    assert_ne!(
        by_judge[0].1, by_meaning[0].1,
        "the embedding is part of what wrote them"
    );
    assert!(by_meaning.iter().any(|(text, _)| text.is_some()));

    // What this machine lacks is no failed attempt.
    let mut lacking = spec.clone();
    lacking.judge.writer.as_mut().unwrap().back_end = Some(hosted("models/no-such-writer"));
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &lacking, &assets).unwrap();
    let place = PromptPlace {
        list: TaskList::Prompts,
        index: 0,
    };
    let assignment = Assignment::WriteRubric {
        task: "a circle".into(),
    };
    let error = work
        .perform(&Unit::WriteRubric { place }, &assignment, &context)
        .unwrap_err();
    assert!(
        matches!(&error, WorkError::Unavailable(text) if text.contains("no-such-writer")),
        "{error}"
    );
}

#[test]
fn broken_work_is_an_error_and_no_verdict() {
    let context = WorkContext::in_memory().unwrap();
    let run = RunId("run".into());
    let mut work = JudgeWork::default();
    let other_rubric = RunAssets {
        rubric: RubricText {
            digest: Digest([0; 32]),
            ..assets().rubric
        },
        ..assets()
    };
    let error = work.prepare(&run, &spec(), &other_rubric).unwrap_err();
    assert!(
        matches!(&error, WorkError::Fatal(text) if text.contains("fingerprint")),
        "{error}"
    );

    let mut missing = spec();
    missing.judge.back_end = hosted("models/no-such-judge");
    let error = JudgeWork::default().prepare(&run, &missing, &assets()).unwrap_err();
    assert!(
        matches!(&error, WorkError::Retry(text) if text.contains("no-such-judge")),
        "{error}"
    );

    work.prepare(&run, &spec(), &assets()).unwrap();
    let image = context.put(b"not a picture".to_vec());
    let pair = Pair {
        prompt_index: PromptIndex(0),
        task: "a red circle".into(),
        first: image,
        second: image,
        rubric: None,
        orders: Orders::Both,
    };
    let error = work
        .perform(&unit(), &Assignment::Judge { pairs: vec![pair] }, &context)
        .unwrap_err();
    assert!(
        matches!(&error, WorkError::Unusable { inputs, reason } if inputs[0].blob == image && reason.contains("cannot be decoded")),
        "{error}"
    );
}

#[test]
fn the_picture_that_was_edited_is_fetched_and_put_before_the_judge() {
    let context = WorkContext::in_memory().unwrap();
    let mut work = JudgeWork::default();
    work.prepare(&RunId("run".into()), &spec(), &assets()).unwrap();
    let files = &labelled(1)[0].files;
    let [first, second] = files.each_ref().map(|file| context.put(std::fs::read(file).unwrap()));
    let mut ask = |source: Digest| {
        let task = Task {
            words: "make it blue".into(),
            sources: vec![source],
        };
        let pair = Pair {
            prompt_index: PromptIndex(0),
            task,
            first,
            second,
            rubric: None,
            orders: Orders::Both,
        };
        work.perform(&unit(), &Assignment::Judge { pairs: vec![pair] }, &context)
            .unwrap_err()
    };
    let nowhere = Digest::of(b"nowhere");
    let error = ask(nowhere);
    assert!(
        matches!(&error, WorkError::Unusable { inputs, .. } if inputs[0].blob == nowhere),
        "{error}"
    );
    // The small judge's template shows no third picture, and says so.
    let error = ask(first);
    assert!(error.to_string().contains("the picture that was edited"), "{error}");
}

const LIST: &str = r#"
name = "list"
labels = ["1", "2", "3"]
[[messages]]
role = "user"
content = [{ each = "Image {{ label }}: " }, { text = " Caption: {{ caption }}\\nWhich image is better?" }]
"#;

#[test]
fn a_pair_of_a_list_has_the_same_verdict_in_any_company() {
    let template = JudgeTemplate::parse(LIST, Path::new("list.toml")).unwrap();
    let judge = VlmJudge::new("list".into(), Digest([1; 32]), MODEL.clone(), template, 0.0).unwrap();
    assert!(judge.sees_lists());
    let labelled = labelled(3);
    let pictures: Vec<&RgbImage> = labelled.iter().map(|pair| &pair.images[0]).collect();
    let pair = |first: usize, second: usize, list| JudgedPair {
        first: pictures[first],
        second: pictures[second],
        list,
        ..pair_of(0, &labelled[0])
    };
    let pairs = [pair(0, 1, &pictures[..]), pair(0, 2, &pictures), pair(1, 2, &pictures)];
    let together = verdicts(&judge, &pairs);
    for (one, record) in pairs.iter().zip(&together) {
        assert_eq!(
            verdicts(&judge, std::slice::from_ref(one)),
            std::slice::from_ref(record)
        );
        assert!(record.order_probabilities.iter().all(|one| (0.0..=1.0).contains(one)));
    }
    // The other way round it is the other probability.
    let turned = verdicts(&judge, &[pair(1, 0, &pictures)]).swap_remove(0);
    assert!((turned.probability_first - (1.0 - together[0].probability_first)).abs() < 1e-12);
    // A pair by itself is a list of two, in both orders.
    let alone = verdicts(&judge, &[pair(0, 1, &[])]).swap_remove(0);
    assert_ne!(alone.order_probabilities, together[0].order_probabilities);
    let keys = [pair(0, 1, &[]), pairs[0], pairs[1]].map(|pair| gavel_judge::verdict_key(&judge, &pair));
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);

    let many: Vec<&RgbImage> = labelled.iter().flat_map(|pair| &pair.images).collect();
    let first = pair(0, 1, &[]);
    for (unfit, what) in [
        (
            JudgedPair {
                first: many[0],
                second: many[1],
                list: &many,
                ..first
            },
            "has 3 labels, and 6 pictures",
        ),
        (
            JudgedPair {
                orders: Orders::Straight,
                ..first
            },
            "shows lists, which have no image orders",
        ),
    ] {
        let error = judge.judge(&[unfit]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
