//! Verdicts of scores, by rules and by a model.

mod servers;

use std::path::{Path, PathBuf};

use gavel_core::ids::PromptIndex;
use gavel_core::spec::{ClipSpec, Dtype, EvaluatorName, EvaluatorSpec, JudgeBackEnd, JudgeSpec};
use gavel_core::work::Orders;
use gavel_models::clip::Clip;
use gavel_models::load::Placement;
use gavel_rubric::{JudgeTemplate, RubricSet};
use image::{Rgb, RgbImage};

use super::*;
use crate::open::{BackEnd as _, Models, OpenOptions, Templates};

const FIRST: Verdict = Verdict::Preferred { side: Side::First };
const SECOND: Verdict = Verdict::Preferred { side: Side::Second };
const TOO_CLOSE: Verdict = Verdict::Abstain {
    reason: AbstainReason::TooClose,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn template() -> JudgeTemplate {
    JudgeTemplate::load(&root().join("configs/judge/small.toml")).unwrap()
}

fn failed(record: &VerdictRecord) -> &str {
    match &record.verdict {
        Verdict::Failed { reason } => reason,
        verdict => panic!("no failure: {verdict:?}"),
    }
}

#[test]
fn a_verdict_is_the_logistic_of_two_scores() {
    let (verdict, probability) = decide([3.0, 1.0], 2.0, 0.0).unwrap();
    assert_eq!(verdict, FIRST);
    assert!((probability - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15);
    assert_eq!(decide([1.0, 1.0], 1.0, 0.0).unwrap(), (TOO_CLOSE, 0.5));
    assert_eq!(decide([1.0, 1.1], 1.0, 0.1).unwrap().0, TOO_CLOSE);
    assert_eq!(decide([1.0, 1.1], 0.1, 0.1).unwrap().0, SECOND);
    assert_eq!(decide([1e12, -1e12], 1e-3, 0.4).unwrap(), (FIRST, 1.0));
    // What the probability does not show is not decided: nobody could check it afterwards.
    assert_eq!(decide([1e-300, 0.0], 1.0, 0.0).unwrap(), (TOO_CLOSE, 0.5));
}

#[test]
fn what_is_no_number_is_no_score() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        assert!(decide([bad, 0.0], 1.0, 0.0).unwrap_err().contains("picture 1"));
        assert!(decide([0.0, bad], 1.0, 0.0).unwrap_err().contains("picture 2"));
    }
}

/// Over scores, temperatures and margins of many sizes, drawn without a library by a sequence that fills the interval evenly.
#[test]
fn swapped_scores_mirror_the_verdict_and_the_record_supports_it() {
    let mut turn = 0.5;
    let mut draw = move || {
        turn = (turn + 0.618_033_988_749_895) % 1.0;
        turn
    };
    let mut decided = 0;
    for _ in 0..4_000 {
        let scores = [draw() * 8.0 - 4.0, draw() * 8.0 - 4.0];
        let temperature = 10.0_f64.powf(draw() * 6.0 - 3.0);
        let margin = draw() * 0.499;
        let (verdict, probability) = decide(scores, temperature, margin).unwrap();
        let (mirrored, swapped) = decide([scores[1], scores[0]], temperature, margin).unwrap();
        assert_eq!(probability, 1.0 - swapped, "{scores:?}");
        match (&verdict, &mirrored) {
            (Verdict::Preferred { side: one }, Verdict::Preferred { side: other }) => {
                assert_ne!(one, other);
                assert_eq!(*one == Side::First, scores[0] > scores[1]);
                assert_eq!(*one == Side::First, probability > 0.5);
                assert!((probability - 0.5).abs() >= margin);
                decided += 1;
            }
            (one, other) => {
                assert_eq!(one, other);
                assert!((probability - 0.5).abs() < margin || probability == 0.5);
            }
        }
    }
    assert!((1_000..3_900).contains(&decided), "both kinds are drawn: {decided}");
}

/// The judge of `evaluator`, without a margin.
fn rules(evaluator: EvaluatorName) -> Box<dyn Judge> {
    let template = template();
    let options = OpenOptions {
        template: &template,
        templates: &Templates::one(template.clone()),
        margin: 0.0,
    };
    let spec = EvaluatorSpec {
        evaluator,
        ..EvaluatorSpec::default()
    };
    spec.judge(&options, &mut Models::default()).unwrap()
}

/// A red square of 24 pixels on white.
fn red_square() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let is_inside = (20..44).contains(&x) && (20..44).contains(&y);
        Rgb(if is_inside { [220, 40, 40] } else { [255, 255, 255] })
    })
}

#[test]
fn an_evaluators_rules_prefer_the_picture_for_which_more_of_the_task_holds() {
    let (right, empty) = (red_square(), RgbImage::from_pixel(64, 64, Rgb([255; 3])));
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |prompt, first, second| JudgedPair {
        prompt_index: PromptIndex(5),
        prompt,
        sources: &[],
        first,
        second,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let judge = rules(EvaluatorName::Scenes);
    let prompt = "a red square on a white background";
    let small = RgbImage::new(32, 64);
    let pairs = [
        pair(prompt, &right, &empty),
        pair(prompt, &empty, &right),
        pair(prompt, &right, &right),
        pair("a cat", &right, &empty),
        pair(prompt, &right, &small),
    ];
    let records = judge.judge(&pairs).unwrap();
    // Of the four facts background, colour, shape and no other colour an empty picture has two.
    let expected = 1.0 / (1.0 + (-0.5_f64).exp());
    assert_eq!(records[0].verdict, FIRST);
    assert!(
        (records[0].probability_first - expected).abs() < 1e-12,
        "{:?}",
        records[0]
    );
    assert_eq!(records[1].verdict, SECOND);
    let [first, second] = records[1].scores.unwrap();
    assert!(first < second && records[3].scores.is_none());
    assert_eq!(records[2].verdict, TOO_CLOSE);
    assert!(failed(&records[3]).contains("is not a scene"));
    assert!(failed(&records[4]).contains("32x64"));
    assert_eq!(records[4].prompt_index, PromptIndex(5));
}

#[test]
fn an_edit_is_scored_by_what_was_done_times_what_was_kept() {
    let source = red_square();
    let blue = |level: u8| {
        let mut edited = source.clone();
        for (_, _, pixel) in edited.enumerate_pixels_mut() {
            *pixel = match *pixel == Rgb([220, 40, 40]) {
                true => Rgb([40, 80, 220]),
                false => Rgb([level; 3]),
            };
        }
        edited
    };
    let (kept, greyed) = (blue(255), blue(128));
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |first, second| JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "make the red square blue",
        sources: std::slice::from_ref(&source),
        first,
        second,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let records = rules(EvaluatorName::Edits)
        .judge(&[pair(&kept, &greyed), pair(&source, &kept)])
        .unwrap();
    assert_eq!(
        records[0].verdict, FIRST,
        "both are blue, one left the rest alone: {records:?}"
    );
    assert_eq!(records[1].verdict, SECOND, "an edit that changes nothing: {records:?}");
}

#[test]
fn a_clip_prefers_the_picture_that_fits_the_words_better_and_swapped_pictures_mirror_it() {
    let folder = root().join("tests/golden/clip/quick-gelu");
    let spec = |temperature| JudgeSpec {
        margin: 0.05,
        back_end: ClipSpec {
            path: folder.clone(),
            dtype: Dtype::F32,
            temperature,
            ..ClipSpec::default()
        }
        .into(),
        ..JudgeSpec::default()
    };
    let templates = Templates::one(template());
    let mut models = Models::default();
    let judge = models.open(&spec(1.0), &templates).unwrap();
    let patient = models.open(&spec(1e6), &templates).unwrap();
    assert_ne!(judge.identity(), patient.identity());
    let (light, dark, line) = (
        RgbImage::from_pixel(30, 24, Rgb([230, 210, 40])),
        red_square(),
        RgbImage::new(1, 400),
    );
    let rubric = RubricSet::from_text("Right.").unwrap();
    let pair = |first, second| JudgedPair {
        prompt_index: PromptIndex(0),
        prompt: "a yellow circle",
        sources: &[],
        first,
        second,
        rubric: &rubric,
        orders: Orders::Both,
        list: &[],
    };
    let pairs = [
        pair(&light, &dark),
        pair(&dark, &light),
        pair(&dark, &dark),
        pair(&dark, &line),
    ];
    let records = judge.judge(&pairs).unwrap();
    let sides = [&records[0].verdict, &records[1].verdict];
    assert!(
        sides == [&FIRST, &SECOND] || sides == [&SECOND, &FIRST],
        "swapped: {records:?}"
    );
    assert_eq!(records[0].probability_first, 1.0 - records[1].probability_first);
    assert_eq!(records[2].verdict, TOO_CLOSE);
    assert!(failed(&records[3]).contains("elongated"), "{records:?}");
    assert_eq!(patient.judge(&pairs[..1]).unwrap()[0].verdict, TOO_CLOSE);
    let clip = Clip::load(&folder, &Placement::cpu()).unwrap();
    let logits = clip.logits("a yellow circle", &[&light, &dark]).unwrap();
    assert_eq!(
        decide([logits[0], logits[1]], 1.0, 0.05).unwrap().1,
        records[0].probability_first
    );
    assert!(models.open_chat(&spec(1.0).back_end).is_err(), "it does not write");

    // With a head it is the picture alone that counts.
    let with_head = |head: &str| {
        let mut spec = spec(1.0);
        if let JudgeBackEnd::Clip(clip) = &mut spec.back_end {
            clip.head = Some(head.to_owned());
        }
        spec
    };
    let beauty = models.open(&with_head("aesthetic"), &templates).unwrap();
    let linear = models.open(&with_head("aesthetic-linear"), &templates).unwrap();
    assert!(beauty.identity() != judge.identity() && beauty.identity() != linear.identity());
    let other_words = JudgedPair {
        prompt: "three dogs",
        ..pairs[0]
    };
    let records = beauty.judge(&[pairs[0], other_words]).unwrap();
    assert_eq!(records[0].probability_first, records[1].probability_first);
    assert!(records[0].probability_first != 0.5);
    assert!(models.open(&with_head("absent"), &templates).is_err());
}
