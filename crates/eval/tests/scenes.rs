//! The scene checker agrees, fact for fact, with the Python rules that it is a port of.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use gavel_eval::{Evaluator, Scenes, Task};
use image::imageops;
use serde_json::Value;

const COLUMNS: u32 = 20;

fn task(words: &str) -> Task<'_> {
    Task { words, sources: &[] }
}

/// Holds every fact of the pictures and prompts of a golden file against the Python rules' answer.
fn assert_agrees(name: &str, count: usize) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let sheet = image::open(golden.join(format!("{name}.png"))).unwrap().to_rgb8();
    let cases = std::fs::read(golden.join(format!("{name}.json"))).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    assert_eq!(cases.len(), count);
    for case in cases {
        let tile = case["tile"].as_u64().unwrap() as u32;
        let image = imageops::crop_imm(&sheet, tile % COLUMNS * 64, tile / COLUMNS * 64, 64, 64).to_image();
        let prompt = case["prompt"].as_str().unwrap();
        let answer = Scenes.evaluate(&task(prompt), &image).unwrap();
        assert_eq!(answer.preservation, None);
        let found = answer.facts;
        let expected = case["facts"].as_object().unwrap();
        assert_eq!(found.iter().count(), expected.len(), "tile {tile}, `{prompt}`");
        for fact in found.iter() {
            assert_eq!(
                u64::from(fact.holds),
                expected[&fact.name].as_u64().unwrap(),
                "tile {tile}, `{prompt}`: {}",
                fact.name
            );
        }
        assert!(
            (found.share() - case["share"].as_f64().unwrap()).abs() < 1e-12,
            "tile {tile}, `{prompt}`"
        );
    }
}

#[test]
fn every_fact_agrees_with_the_python_rules() {
    assert_agrees("scenes", 400);
}

#[test]
fn every_count_agrees_with_the_python_rules() {
    assert_agrees("counts", 280);
}

#[test]
fn another_picture_size_is_refused() {
    let error = Scenes
        .evaluate(
            &task("a red circle on a white background"),
            &image::RgbImage::new(32, 64),
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "the picture is 32x64, the `scenes` rules read 64x64");
}
