//! Files that people write, and pictures.

use std::io::Cursor;
use std::path::Path;

use gavel_core::spec::RunSpec;
use gavel_core::text;
use gavel_rubric::data::{LabelledSet, Picture, ReadOptions, tasks};
use gavel_rubric::{JudgeTemplate, ReasonTemplate, Rubrics};
use image::{ImageFormat, Rgb, RgbImage};

use crate::{file, fuzz};

#[test]
fn configurations() {
    let corpus = [
        "configs/quickstart.toml",
        "configs/quickstart-edit.toml",
        "configs/flux-dev.toml",
    ]
    .map(file);
    fuzz(&corpus, |bytes| {
        let Ok(text) = text::decode(bytes.to_vec()) else { return };
        if let Ok(table) = toml::from_str(&text) {
            let spec = RunSpec::from_value(table);
            // What passes the checks is written to a ledger, and read again.
            if let Ok(spec) = spec {
                let written = serde_json::to_string(&spec).unwrap();
                let read: RunSpec = serde_json::from_str(&written).unwrap();
                assert_eq!(read.digest(), spec.digest());
            }
        }
    });
}

#[test]
fn rubrics_and_templates() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = [
        "configs/quickstart/rubric.toml",
        "configs/judge/instruct.toml",
        "configs/rubric/small/reason.toml",
        "models/tiny-judge/judge_template.toml",
    ]
    .map(file);
    fuzz(&corpus, |bytes| {
        for name in ["changed.toml", "changed.txt"] {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let _ = Rubrics::load(&file);
            let _ = JudgeTemplate::load(&file);
            let _ = ReasonTemplate::load(&file);
        }
    });
}

/// A folder with one small picture, `a.png`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    picture().save(folder.path().join("a.png")).unwrap();
    folder
}

fn picture() -> RgbImage {
    RgbImage::from_fn(5, 4, |x, y| Rgb([40 * x as u8, 50 * y as u8, 9]))
}

/// Reads changed files under each of these names.
fn named(corpus: &[&str], names: &[&str], read: impl Fn(&Path)) {
    let folder = folder();
    let corpus: Vec<Vec<u8>> = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz(&corpus, |bytes| {
        for name in names {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            read(&file);
        }
    });
}

#[test]
fn task_files() {
    let corpus = [
        "\u{feff}a red circle\r\na blue square\n",
        "{\"prompt\": \"a cat\", \"weight\": 2}\n{\"query\": \"a dog\"}\n",
        "[{\"instruction\": \"bluer\", \"source_image\": [\"a.png\"], \"mask\": \"a.png\"}]",
        "- a cat\n- prompt: a dog\n",
        "id,caption,source_image\n1,\"a cat, very nice\",a.png\n2,a dog,\n",
    ];
    let names = ["p.txt", "p.jsonl", "p.json", "p.yaml", "p.csv", "p.tsv"];
    named(&corpus, &names, |file| {
        for edits in [false, true] {
            if let Ok(tasks) = tasks::read(file, edits, &ReadOptions::local()) {
                assert!(tasks.iter().all(|task| !task.words.trim().is_empty()));
                assert!(tasks.iter().all(|task| task.sources.is_empty() != edits));
            }
        }
    });
}

#[test]
fn labelled_examples() {
    let corpus = [
        "{\"query\": \"a cat\", \"response\": [\"a.png\", \"a.png\"], \"label_rank\": [1, 2]}\n",
        "[{\"query\": \"q\", \"response\": \"a.png\", \"label_score\": 4, \"min_score\": 1, \"max_score\": 5}]",
        "- query: q\n  source_image: a.png\n  response: [a.png, a.png]\n  label_rank: [2, 1]\n",
    ];
    named(&corpus, &["e.jsonl", "e.yaml", "e.csv"], |file| {
        if let Ok(set) = LabelledSet::read(file, &ReadOptions::local()) {
            assert!(!set.examples.is_empty());
        }
    });
}

#[test]
fn pictures() {
    let mut corpus = vec![file("tests/files/a-turned.jpg"), file("tests/files/a-transparent.png")];
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let mut bytes = Cursor::new(Vec::new());
        picture().write_to(&mut bytes, format).unwrap();
        corpus.push(bytes.into_inner());
    }
    let options = ReadOptions {
        picture_pixels_max: 1 << 20,
        ..ReadOptions::local()
    };
    fuzz(&corpus, |bytes| {
        if let Ok(image) = Picture::decode(bytes, &options) {
            assert!(u64::from(image.width()) * u64::from(image.height()) <= options.picture_pixels_max);
        }
    });
}
