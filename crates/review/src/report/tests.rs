//! What the report says, of edits and of pictures made from words.

use gavel_coordinator::web;
use gavel_core::ids::{Digest, Step};
use gavel_core::measure::WinRate;
use gavel_core::run::ProbeStatus;
use gavel_eval::{Edits, Evaluator, Scenes, Task};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Map, json};

use super::data::{Evaluation, Report, Versions};
use super::gallery::Gallery;
use super::pictures::{Comparison, Picture, Pictures};
use super::probes::{ProbedStep, Probes};
use super::{html, results};
use crate::Machine;

const WHITE: Rgb<u8> = Rgb([245, 245, 245]);
const PINK: Rgb<u8> = Rgb([250, 170, 200]);
const RED: Rgb<u8> = Rgb([220, 40, 40]);
const BLUE: Rgb<u8> = Rgb([50, 80, 220]);

/// A square on the left of a background.
fn square(colour: Rgb<u8>, background: Rgb<u8>) -> RgbImage {
    let is_square = |x, y| (6..26).contains(&x) && (22..42).contains(&y);
    RgbImage::from_fn(64, 64, |x, y| if is_square(x, y) { colour } else { background })
}

fn picture(image: &RgbImage, evaluator: &dyn Evaluator, task: &Task<'_>) -> Picture {
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).unwrap();
    let png = png.into_inner();
    Picture {
        digest: Digest::of(&png),
        png,
        answer: Some(evaluator.evaluate(task, image).unwrap()),
    }
}

/// What base and tuned policy made of one instruction for a red square on white.
fn edit(words: &str, base: &RgbImage, tuned: &RgbImage) -> Comparison {
    let sources = [square(RED, WHITE)];
    let task = Task {
        words,
        sources: &sources,
    };
    Comparison {
        prompt: words.to_owned(),
        sources: vec![picture(&sources[0], &Edits, &task)],
        target: None,
        mask: None,
        fields: Map::new(),
        base: picture(base, &Edits, &task),
        tuned: picture(tuned, &Edits, &task),
        verdict: None,
    }
}

fn report(evaluation: Option<Evaluation>) -> Report {
    Report {
        run: "example".to_owned(),
        seed: 7,
        evaluation,
        win_rate: Some(WinRate {
            prompts: 2,
            wins: 1,
            losses: 0,
            abstained: 1,
            failed: 0,
            value: 0.75,
            low: 0.25,
            high: 0.9375,
        }),
        judge: None,
        asked: None,
        steps: Vec::new(),
        probes: Vec::new(),
        probes_base: None,
        best: None,
        pairs_skipped: 0,
        seconds_total: 90.0,
        adapter_sha256: Digest::of(b"adapter"),
        spec_sha256: Digest::of(b"spec"),
        rubric_sha256: Digest::of(b"rubric"),
        rubrics_of_prompts: 0,
        versions: Versions { gavel: "1.2.3" },
        machine: Machine {
            system: "linux x86_64".to_owned(),
            processor: None,
            cores: 2,
            memory_bytes: None,
        },
    }
}

/// The page without the files of the dashboard that it carries, which are looked at where they are.
fn rendered(report: &Report, pictures: &Pictures, probes: &Probes) -> String {
    let page = html::render(report, pictures, probes, &Gallery::default()).unwrap();
    let script = web::bundle("report_page.js");
    let files = [
        (web::CHARTS_STYLE, "(style of the charts)"),
        (web::PAGE_STYLE, "(style of the pages)"),
        (web::CHARTS, "(script of the charts)"),
        (&script, "(script of the page)"),
    ];
    files.into_iter().fold(page, |page, (text, mark)| {
        assert_eq!(page.matches(text).count(), 1, "{mark}");
        page.replace(text, mark)
    })
}

#[test]
fn a_report_of_pictures_made_from_words_knows_nothing_of_edits() {
    let words = "a red square on a white background";
    let task = Task { words, sources: &[] };
    let pictures = Pictures(vec![Comparison {
        prompt: words.to_owned(),
        sources: Vec::new(),
        target: None,
        mask: None,
        fields: Map::new(),
        base: picture(&square(BLUE, WHITE), &Scenes, &task),
        tuned: picture(&square(RED, WHITE), &Scenes, &task),
        verdict: None,
    }]);
    let report = report(Evaluation::new("scenes", &pictures));
    insta::assert_snapshot!("text_to_image_json", serde_json::to_string_pretty(&report).unwrap());
    insta::assert_snapshot!("text_to_image_html", rendered(&report, &pictures, &Probes::default()));
    assert_eq!(
        results(&serde_json::to_value(&report).unwrap()),
        [
            "adherence    0.250 -> 1.000 on held-out prompts",
            "win rate     0.75 over the base [0.25, 0.94]"
        ]
    );
}

#[test]
fn both_halves_of_edits_stand_beside_a_copy_of_the_source() {
    let pictures = Pictures(vec![
        // The base does nothing, the adapter what it is asked.
        edit("make the red square blue", &square(RED, WHITE), &square(BLUE, WHITE)),
        // The base does half of it, the adapter repaints everything.
        edit("remove the red square", &square(BLUE, WHITE), &square(PINK, PINK)),
    ]);
    let report = serde_json::to_value(report(Evaluation::new("edits", &pictures))).unwrap();
    assert_eq!(
        report["evaluation"]["axes"],
        json!({
            "fulfilment": { "before": 0.25, "after": 0.75, "copy": 0.0 },
            "preservation": { "before": 1.0, "after": 0.5, "copy": 1.0 },
        })
    );
    assert_eq!(
        [&report["evaluation"]["before"], &report["evaluation"]["after"]],
        [0.25, 0.75],
        "of edits these are the halves' fulfilment"
    );
    assert_eq!(
        report["evaluation"]["facts"]["old colour gone"],
        json!({ "before": 0.5, "after": 1.0 })
    );
    let lines = results(&report);
    assert_eq!(
        lines[..2],
        [
            "fulfilment   0.250 -> 0.750 on held-out edits; a copy of the source: 0.000",
            "preservation 1.000 -> 0.500 on held-out edits; a copy of the source: 1.000"
        ]
    );
    assert!(lines[2].starts_with("Failure: "), "{lines:?}");
}

#[test]
fn the_page_shows_source_and_difference_and_says_when_the_adapter_repaints() {
    let repainted = Pictures(vec![edit(
        "make the red square blue",
        &square(RED, WHITE),
        &square(BLUE, PINK),
    )]);
    let page = rendered(
        &report(Evaluation::new("edits", &repainted)),
        &repainted,
        &Probes::default(),
    );
    insta::assert_snapshot!("repainted_edit_html", page);
    assert!(page.contains(
        "<p class=\"statement failure\">Failure: fulfilment rose by 1.000 while preservation fell by 1.000."
    ));

    let faithful = Pictures(vec![edit(
        "make the red square blue",
        &square(RED, WHITE),
        &square(BLUE, WHITE),
    )]);
    let page = rendered(
        &report(Evaluation::new("edits", &faithful)),
        &faithful,
        &Probes::default(),
    );
    assert!(page.contains("<p class=\"statement\">Fulfilment rose by 1.000, and preservation is unchanged.</p>"));
    assert!(!page.contains("Failure"));
}

#[test]
fn the_page_shows_what_the_task_file_gave_along() {
    let shown = |comparison: Comparison| {
        let pictures = Pictures(vec![comparison]);
        rendered(&report(None), &pictures, &Probes::default())
    };
    let plain = || edit("make the red square blue", &square(RED, WHITE), &square(BLUE, WHITE));
    let page = shown(plain());
    assert!(!page.contains("alt=\"target\"") && !page.contains("alt=\"mask\""));

    let mut annotated = plain();
    let task = Task {
        words: "make the red square blue",
        sources: &[square(RED, WHITE)],
    };
    annotated.target = Some(picture(&square(BLUE, WHITE), &Edits, &task));
    annotated.mask = Some(picture(&square(WHITE, PINK), &Edits, &task));
    annotated.fields.insert("task_type".into(), json!("<colour>"));
    annotated.fields.insert("level".into(), json!(2));
    let page = shown(annotated);
    assert_eq!(page.matches("alt=\"target\"").count(), 1);
    assert_eq!(page.matches("alt=\"mask\"").count(), 1);
    assert!(page.contains("task_type: &lt;colour&gt;; level: 2"), "{page}");
}

#[test]
fn edits_without_an_evaluator_are_shown_without_figures() {
    let mut comparison = edit("make the red square blue", &square(RED, WHITE), &square(BLUE, WHITE));
    for picture in [&mut comparison.base, &mut comparison.tuned, &mut comparison.sources[0]] {
        picture.answer = None;
    }
    let pictures = Pictures(vec![comparison]);
    assert!(Evaluation::new("edits", &pictures).is_none());
    let page = rendered(&report(None), &pictures, &Probes::default());
    for part in [
        "alt=\"source\"",
        "alt=\"before\"",
        "alt=\"after\"",
        "alt=\"difference\"",
    ] {
        assert_eq!(page.matches(part).count(), 1, "{part}");
    }
    assert!(!page.contains("Fulfilment") && !page.contains("kept"));
}

#[test]
fn probes_are_a_curve_with_pictures_and_the_best_is_named() {
    let rate = report(None).win_rate;
    let step = |step, win_rate, score| ProbedStep {
        status: ProbeStatus {
            step: Step(step),
            prompts: 2,
            painted: 2,
            compared: 2,
            win_rate,
        },
        score,
    };
    let mut report = report(None);
    report.probes = vec![step(10, rate, Some(0.5)), step(20, None, None)];
    report.probes_base = Some(0.25);
    report.best = Some(Step(10));
    let task = Task {
        words: "a red square on a white background",
        sources: &[],
    };
    let painted = || Some(picture(&square(RED, WHITE), &Scenes, &task));
    let probes = Probes {
        rows: vec![(task.words.to_owned(), vec![painted(), painted(), None])],
        columns: vec![10, 20],
        ..Probes::default()
    };
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["probes"][0]["win_rate"]["value"], 0.75);
    assert_eq!(json["probes"][0]["score"], 0.5);
    assert_eq!((&json["best"], &json["probes_base"]), (&json!(10), &json!(0.25)));
    let page = rendered(&report, &Pictures(Vec::new()), &probes);
    for part in [
        "id=\"probe-charts\" class=\"charts\"",
        "\"win_rate\":{\"prompts\":2",
        "\"score\":0.5",
        "<th>step 10</th><th>step 20</th>",
        "The best is that of step 10",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<img alt=\"\"").count(), 2);
}
