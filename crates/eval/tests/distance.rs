//! Distances and strengths are those of scikit-image and numpy.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use gavel_eval::{Difference, Distance, Region, Wins, diversity};
use image::RgbImage;
use serde_json::Value;

fn golden() -> (Value, impl Fn(&str) -> RgbImage) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/distance");
    let figures = serde_json::from_slice(&std::fs::read(folder.join("distance.json")).unwrap()).unwrap();
    let picture = move |name: &str| image::open(folder.join(name)).unwrap().to_rgb8();
    (figures, picture)
}

/// Sums in another order, in float64; similarity is kept in float32.
fn check(found: Option<Distance>, expected: &Value) {
    let found = serde_json::to_value(found.unwrap()).unwrap();
    for (name, tolerance) in [
        ("pixels", 0.0),
        ("l1", 1e-12),
        ("mse", 1e-12),
        ("psnr", 1e-9),
        ("ssim", 1e-6),
    ] {
        let [found, expected] = [&found, expected].map(|figures| figures[name].as_f64().unwrap());
        assert!((found - expected).abs() <= tolerance, "{name}: {found}, not {expected}");
    }
}

#[test]
fn distances_are_those_of_scikit_image_over_the_whole_and_inside_and_outside_a_region() {
    let (figures, picture) = golden();
    let difference = Difference::between(&picture("0.png"), &picture("1.png")).unwrap();
    let mask = Region::of_mask(&picture("mask.png"));
    let changed = difference.changed();
    check(difference.whole(), &figures["whole"]);
    check(difference.over(&mask), &figures["inside"]);
    check(difference.over(&mask.complement()), &figures["outside"]);
    check(difference.over(&changed), &figures["changed"]);
    check(difference.over(&changed.complement()), &figures["unchanged"]);
}

#[test]
fn diversity_is_the_mean_over_all_pairs_in_numpy() {
    let (figures, picture) = golden();
    let pictures: Vec<RgbImage> = (0..5).map(|index| picture(&format!("{index}.png"))).collect();
    let (found, expected) = (diversity(&pictures).unwrap(), figures["diversity"].as_f64().unwrap());
    assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
}

#[test]
fn strengths_and_their_intervals_are_those_of_newtons_method() {
    let (figures, _) = golden();
    let mut wins = Wins::new(4);
    for one in figures["wins"].as_array().unwrap() {
        let index = |at: usize| one[at].as_u64().unwrap() as usize;
        wins.add(index(0), index(1), one[2].as_f64().unwrap());
    }
    let strengths = wins.strengths();
    let expected = figures["strengths"].as_array().unwrap();
    assert_eq!(strengths.len(), expected.len());
    for (found, expected) in strengths.iter().zip(expected) {
        let found = serde_json::to_value(found).unwrap();
        for name in ["log_ratio", "low", "high"] {
            let [found, expected] = [&found, expected].map(|figures| figures[name].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-8, "{name}: {found}, not {expected}");
        }
    }
}
