//! The edit checker agrees, fact for fact and share for share, with the Python rules that it is a port of.

use std::path::Path;

use gavel_eval::{Edits, EvalError, Evaluator, Task};
use image::{Rgb, RgbImage, imageops};
use serde_json::Value;

const COLUMNS: u32 = 20;

#[test]
fn every_fact_and_share_agrees_with_the_python_rules() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let sheet = image::open(golden.join("edits.png")).unwrap().to_rgb8();
    let tile = |number: &Value| {
        let number = number.as_u64().unwrap() as u32;
        imageops::crop_imm(&sheet, number % COLUMNS * 64, number / COLUMNS * 64, 64, 64).to_image()
    };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(golden.join("edits.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 600);
    let mut refused = 0;
    for case in cases {
        let sources = [tile(&case["source"])];
        let task = Task {
            words: case["instruction"].as_str().unwrap(),
            sources: &sources,
        };
        let edited = tile(&case["edited"]);
        if case.get("refused").is_some() {
            let error = Edits.evaluate(&task, &edited).unwrap_err();
            assert!(matches!(error, EvalError::Source { .. }), "{case}: {error}");
            refused += 1;
            continue;
        }
        let found = Edits.evaluate(&task, &edited).unwrap();
        let expected = case["facts"].as_object().unwrap();
        assert_eq!(found.facts.iter().count(), expected.len(), "{case}");
        for fact in found.facts.iter() {
            assert_eq!(
                Some(u64::from(fact.holds)),
                expected[&fact.name].as_u64(),
                "{case}: {}",
                fact.name
            );
        }
        // Both divide the same whole numbers; the sums of the shares may be rounded otherwise.
        let agrees = |share: f64, key: &str| (share - case[key].as_f64().unwrap()).abs() < 1e-12;
        assert!(agrees(found.facts.share(), "fulfilment"), "{case}");
        assert!(agrees(found.preservation.unwrap(), "preservation"), "{case}");
    }
    assert_eq!(refused, 140);
}

/// A white picture with a red square on the left and a blue one on the right.
fn source() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| match (x, y) {
        (6..26, 22..42) => Rgb([220, 40, 40]),
        (38..58, 22..42) => Rgb([50, 80, 220]),
        _ => Rgb([245, 245, 245]),
    })
}

fn refusal(words: &str, sources: &[RgbImage]) -> String {
    match Edits.check(&Task { words, sources }) {
        Err(error) => error.to_string(),
        Ok(()) => panic!("`{words}` is accepted"),
    }
}

#[test]
fn a_copy_keeps_everything_and_fulfils_nothing_and_a_repainted_picture_the_other_way_round() {
    let sources = [source()];
    let task = Task {
        words: "make the background pink",
        sources: &sources,
    };
    let copy = Edits.evaluate(&task, &sources[0]).unwrap();
    assert_eq!((copy.facts.share(), copy.preservation), (0.0, Some(1.0)));
    let repainted = RgbImage::from_pixel(64, 64, Rgb([250, 170, 200]));
    let repainted = Edits.evaluate(&task, &repainted).unwrap();
    assert_eq!((repainted.facts.share(), repainted.preservation), (1.0, Some(0.0)));
}

#[test]
fn a_task_that_the_rules_cannot_be_applied_to_is_refused_before_a_picture_is_made() {
    let remove = "remove the green circle";
    assert_eq!(
        refusal(remove, &[]),
        "prompt `remove the green circle` has 0 source pictures, the `edits` rules read one"
    );
    assert_eq!(
        refusal(remove, &[RgbImage::new(32, 64)]),
        "prompt `remove the green circle`: the source picture is 32x64, the `edits` rules read 64x64"
    );
    assert_eq!(
        refusal(remove, &[source()]),
        "prompt `remove the green circle`: the source picture shows no green object"
    );
    let cyan = RgbImage::from_pixel(64, 64, Rgb([0, 255, 255]));
    assert_eq!(
        refusal("make the background pink", &[cyan]),
        "prompt `make the background pink`: the source picture shows no background"
    );
    let empty = RgbImage::from_pixel(64, 64, Rgb([245, 245, 245]));
    assert_eq!(
        refusal("make the background pink", &[empty]),
        "prompt `make the background pink`: the source picture leaves nothing by which to tell whether the rest is kept"
    );
    assert_eq!(
        refusal("a photo of a cat", &[source()]),
        "prompt `a photo of a cat` is not an edit of a scene: `a` where `make`, `remove`, `add` or `replace` should be"
    );
}

#[test]
fn another_size_of_the_edited_picture_is_refused() {
    let sources = [source()];
    let task = Task {
        words: "remove the red square",
        sources: &sources,
    };
    let error = Edits.evaluate(&task, &RgbImage::new(128, 64)).unwrap_err();
    assert_eq!(error.to_string(), "the picture is 128x64, the `edits` rules read 64x64");
}
