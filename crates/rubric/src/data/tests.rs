//! Every way to write an example, and every way to get it wrong.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use gavel_core::Hint as _;
use gavel_core::work::Side;
use image::{ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A folder with `a.png`, `b.png` and `base.png`, each of its own colour, and the given file of examples.
fn folder(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, colour) in [("a", [255, 0, 0]), ("b", [0, 255, 0]), ("base", [0, 0, 255])] {
        RgbImage::from_pixel(3, 2, Rgb(colour))
            .save(folder.path().join(name).with_extension("png"))
            .unwrap();
    }
    std::fs::write(folder.path().join(name), text).unwrap();
    folder
}

fn read_with(name: &str, text: &str, options: &ReadOptions<'_>) -> Result<LabelledSet, DataError> {
    let folder = folder(name, text);
    LabelledSet::read(&folder.path().join(name), options)
}

fn read(name: &str, text: &str) -> Result<LabelledSet, DataError> {
    read_with(name, text, &ReadOptions::local())
}

fn one(record: &Value) -> LabelledSet {
    read("data.json", &json!([record]).to_string()).unwrap()
}

fn colour(picture: &Picture) -> [u8; 3] {
    picture.image().get_pixel(0, 0).0
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(3, 2, |x, _| Rgb(if x == 0 { [250, 10, 10] } else { [10, 10, 250] }));
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn text_to_image_pairs_under_every_name() {
    for name in ["response", "responses", "images", "image_paths", "generated_images"] {
        let set = one(&json!({"query": " a cat ", name: ["a.png", "b.png"], "label_rank": [2, 1]}));
        assert_eq!((set.task, set.labelling), (Task::TextToImage, Labelling::Ranked));
        let pairs = set.pairs();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].example.prompt, "a cat");
        assert_eq!(pairs[0].pictures.map(colour), [[255, 0, 0], [0, 255, 0]]);
        assert_eq!(pairs[0].preferred, Side::Second);
    }
}

#[test]
fn edits_under_every_name() {
    let bases = [
        "source_image",
        "base_image",
        "original_image",
        "input_image",
        "reference_image",
    ];
    let edits = [
        "edited_images",
        "target_images",
        "output_images",
        "result_images",
        "response",
    ];
    for base in bases {
        for name in edits {
            let set = one(&json!({"query": "bluer", base: "base.png", name: ["a.png", "b.png"], "label_rank": [1, 2]}));
            assert_eq!(set.task, Task::Editing);
            assert_eq!(set.examples[0].source.as_ref().map(colour), Some([0, 0, 255]));
            assert_eq!(set.pairs()[0].preferred, Side::First);
        }
    }
}

#[test]
fn scores_take_their_range_from_the_record_or_from_the_caller() {
    let set = one(&json!({"query": "q", "response": "a.png", "label_score": 4.0, "min_score": 1, "max_score": 5}));
    assert_eq!(set.labelling, Labelling::Scored);
    let label = |value, min, max| Label::Score { value, min, max };
    assert_eq!(set.examples[0].label, label(4, 1, 5));
    assert!(set.pairs().is_empty());
    let text = r#"{"query": "q", "response": ["a.png"], "label_score": 7}"#;
    let options = ReadOptions {
        scores: Some((0, 10)),
        ..ReadOptions::local()
    };
    let set = read_with("data.jsonl", text, &options).unwrap();
    assert_eq!(set.examples[0].label, label(7, 0, 10));
}

#[test]
fn the_three_formats_say_the_same() {
    let array = read(
        "data.json",
        r#"[{"query": "q", "response": ["a.png", "b.png"], "label_rank": [1, 2]}]"#,
    );
    let lines = read(
        "data.jsonl",
        "\u{feff}\n{\"query\": \"q\", \"response\": [\"a.png\", \"b.png\"], \"label_rank\": [1, 2]}\n\n",
    );
    let yaml = read(
        "data.yaml",
        "- query: q\n  response:\n    - a.png\n    - b.png\n  label_rank: [1, 2]\n",
    );
    let (array, lines, yaml) = (array.unwrap(), lines.unwrap(), yaml.unwrap());
    assert_eq!(array.digest(), lines.digest());
    assert_eq!(array, yaml);
    assert_eq!(
        lines.examples[0].place,
        Place {
            index: 0,
            line: Some(2)
        }
    );
}

#[test]
fn more_than_two_pictures_give_every_pair_that_differs() {
    let set = one(&json!({"query": "q", "response": ["a.png", "b.png", "base.png"], "label_rank": [2, 1, 2]}));
    let pairs = set.pairs();
    assert_eq!(pairs.len(), 2);
    assert_eq!(pairs[0].preferred, Side::Second);
    assert_eq!(pairs[1].pictures.map(colour), [[0, 255, 0], [0, 0, 255]]);
    assert_eq!(pairs[1].preferred, Side::First);
}

#[test]
fn pictures_come_from_absolute_paths_addresses_and_data_urls() {
    use base64::Engine as _;
    let elsewhere = folder("unused", "");
    let absolute = elsewhere.path().join("b.png");
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let body = base64::engine::general_purpose::STANDARD.encode(encoded(format));
        let url = format!("data:image/any;base64,{body}");
        let set = one(&json!({"query": "q", "response": [absolute, url], "label_rank": [1, 2]}));
        assert_eq!(colour(&set.examples[0].responses[0]), [0, 255, 0]);
        assert_eq!(set.examples[0].responses[1].encoded, encoded(format));
    }
    let fetch = |url: &str, bytes_max: u64| {
        assert_eq!((url, bytes_max), ("HTTPS://example.org/x", 32 << 20));
        Ok(encoded(ImageFormat::Png))
    };
    let options = ReadOptions {
        fetch: &fetch,
        ..ReadOptions::local()
    };
    let text = r#"{"query": "q", "response": ["a.png", "HTTPS://example.org/x"], "label_rank": [1, 2]}"#;
    let set = read_with("data.jsonl", text, &options).unwrap();
    assert_eq!(set.examples[0].responses[1].encoded, encoded(ImageFormat::Png));
}

/// A JPEG whose EXIF block says how to turn it.
fn turned(orientation: u8) -> Vec<u8> {
    let jpeg = encoded(ImageFormat::Jpeg);
    // APP1: "Exif\0\0", a little-endian TIFF header and one directory entry (0x0112, SHORT, count 1).
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn a_photograph_is_turned_as_its_file_says() {
    let read = |orientation| {
        let folder = folder(
            "data.jsonl",
            r#"{"query": "q", "response": ["a.png", "turned.jpg"], "label_rank": [1, 2]}"#,
        );
        std::fs::write(folder.path().join("turned.jpg"), turned(orientation)).unwrap();
        let set = LabelledSet::read(&folder.path().join("data.jsonl"), &ReadOptions::local()).unwrap();
        set.examples[0].responses[1].clone()
    };
    let upright = read(1);
    assert_eq!(upright.encoded, turned(1));
    let image = upright.image();
    assert_eq!((image.width(), image.height()), (3, 2));
    // 6: turn clockwise by 90 degrees; the red left column becomes the top row.
    let clockwise = read(6).image();
    assert_eq!((clockwise.width(), clockwise.height()), (2, 3));
    assert_eq!(clockwise.get_pixel(1, 0), image.get_pixel(0, 0));
    assert_ne!(read(6).digest, upright.digest);
}

/// What Pillow reads of the same files, within one level where its rounding differs and a few where two JPEG decoders may.
#[test]
fn every_form_of_picture_gives_the_pixels_that_pillow_reads() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pictures");
    for (name, transparency, form, levels) in [
        ("palette.png", Transparency::OverWhite, "expected", 0),
        ("gray.png", Transparency::OverWhite, "expected", 0),
        ("alpha.png", Transparency::OverWhite, "white", 0),
        ("alpha.png", Transparency::Dropped, "expected", 0),
        ("sixteen.png", Transparency::OverWhite, "expected", 1),
        ("cmyk.jpg", Transparency::OverWhite, "expected", 4),
        ("lossy.webp", Transparency::OverWhite, "expected", 4),
    ] {
        let options = ReadOptions {
            transparency,
            ..ReadOptions::local()
        };
        let picture = Picture::open(&golden.join(name), &options).unwrap();
        let read = picture.image();
        assert_eq!(
            Picture::decode(&picture.encoded, &ReadOptions::local()).unwrap(),
            read,
            "{name}: whoever reads what was stored sees the same"
        );
        let expected = image::open(golden.join(format!("{name}.{form}.png")))
            .unwrap()
            .to_rgb8();
        assert_eq!(read.dimensions(), expected.dimensions(), "{name}");
        let off = read
            .as_raw()
            .iter()
            .zip(expected.as_raw())
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(off <= Some(levels), "{name}: off by {off:?} levels");
    }
    for name in ["moving.png", "moving.webp"] {
        let error = Picture::open(&golden.join(name), &ReadOptions::local()).unwrap_err();
        assert!(matches!(*error.fault, RecordFault::Animation), "{name}: {error}");
    }
}

#[test]
fn the_fingerprint_is_of_content() {
    let record =
        |query: &str, rank: [u32; 2]| one(&json!({"query": query, "response": ["a.png", "b.png"], "label_rank": rank}));
    let digest = record("q", [1, 2]).digest();
    assert_eq!(digest, record("q", [1, 2]).digest());
    assert_ne!(digest, record("r", [1, 2]).digest());
    assert_ne!(digest, record("q", [2, 1]).digest());
}

#[test]
fn faults_name_file_record_and_field() {
    let good = json!({"query": "q", "response": ["a.png", "b.png"], "label_rank": [1, 2]});
    let with = |key: &str, value: Value| {
        let mut record = good.clone();
        record[key] = value;
        json!([good, record]).to_string()
    };
    let png = encoded(ImageFormat::Png);
    let fetch = move |_: &str, _: u64| Ok(png.clone());
    let small = ReadOptions {
        picture_bytes_max: 20,
        ..ReadOptions::local()
    };
    let flat = ReadOptions {
        picture_pixels_max: 5,
        fetch: &fetch,
        ..ReadOptions::local()
    };
    let local = ReadOptions::local();
    let cases: Vec<(&str, String, &ReadOptions<'_>)> = vec![
        ("data.json", "[]".into(), &local),
        ("data.json", "[{]".into(), &local),
        ("data.yaml", "query: q".into(), &local),
        ("data.jsonl", "\n\n".into(), &local),
        ("data.jsonl", format!("{good}\n{{\"query\": }}"), &local),
        ("data.jsonl", format!("{good}\n\n7"), &local),
        ("data.json", with("query", Value::Null), &local),
        ("data.json", with("query", json!(" ")), &local),
        ("data.json", with("response", Value::Null), &local),
        ("data.json", with("response", json!(7)), &local),
        ("data.json", with("response", json!(["a.png", 7])), &local),
        ("data.json", with("response", json!(["a.png"])), &local),
        ("data.json", with("images", json!(["a.png"])), &local),
        ("data.json", with("label_rank", Value::Null), &local),
        ("data.json", with("label_rank", json!([0, 1])), &local),
        ("data.json", with("label_rank", json!([1, 2, 3])), &local),
        ("data.json", with("label_rank", json!([1, 1])), &local),
        ("data.json", with("label_score", json!(1)), &local),
        ("data.json", with("base_image", json!(["a.png"])), &local),
        ("data.json", with("base_image", json!("base.png")), &local),
        ("data.json", with("response", json!(["a.png", "none.png"])), &local),
        ("data.json", with("response", json!(["a.png", "data.json"])), &local),
        (
            "data.json",
            with("response", json!(["a.png", "data:image/png,x"])),
            &local,
        ),
        (
            "data.json",
            with("response", json!(["a.png", "https://example.org/x"])),
            &local,
        ),
        (
            "data.json",
            with("response", json!(["https://example.org/x", "a.png"])),
            &flat,
        ),
        ("data.json", with("query", json!("q")), &small),
        (
            "data.json",
            r#"[{"query": "q", "response": "a.png", "label_score": 4}]"#.into(),
            &local,
        ),
        (
            "data.json",
            r#"[{"query": "q", "response": ["a.png", "b.png"], "label_score": 4}]"#.into(),
            &local,
        ),
        (
            "data.json",
            r#"[{"query": "q", "response": "a.png", "label_score": 4.5, "min_score": 0, "max_score": 5}]"#.into(),
            &local,
        ),
        (
            "data.json",
            r#"[{"query": "q", "response": "a.png", "label_score": 9, "min_score": 0, "max_score": 5}]"#.into(),
            &local,
        ),
        (
            "data.json",
            r#"[{"query": "q", "response": "a.png", "label_score": 5, "min_score": 5, "max_score": 5}]"#.into(),
            &local,
        ),
    ];
    let mut told = String::new();
    for (name, text, options) in cases {
        let folder = folder(name, &text);
        let error = LabelledSet::read(&folder.path().join(name), options).unwrap_err();
        let mut message = format!("{error}");
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            // The fault's own words already stand in the message.
            if !message.ends_with(&source.to_string()) {
                write!(message, "\n  caused by: {source}").unwrap();
            }
            cause = source.source();
        }
        let hint = error.hint().unwrap_or_default();
        let place = format!("{}/", folder.path().display());
        writeln!(told, "{message}\n  hint: {hint}").unwrap();
        told = told.replace(&place, "");
    }
    insta::assert_snapshot!(told);
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in "[\\[\\]{}\",:a-z0-9 \\n-]{0,80}", yaml in any::<bool>()) {
        let _ = read(if yaml { "data.yaml" } else { "data.json" }, &text);
    }

    #[test]
    fn pairs_agree_with_ranks(ranks in proptest::collection::vec(1u32..4, 2..5)) {
        let response = vec!["a.png"; ranks.len()];
        let record = json!([{"query": "q", "response": response, "label_rank": ranks}]).to_string();
        let differ = |a: usize, b: usize| usize::from(ranks[a] != ranks[b]);
        let expected: usize = (0..ranks.len()).flat_map(|a| (a + 1..ranks.len()).map(move |b| (a, b))).map(|(a, b)| differ(a, b)).sum();
        match read("data.json", &record) {
            Ok(set) => prop_assert_eq!(set.pairs().len(), expected),
            Err(_) => prop_assert_eq!(expected, 0),
        }
    }
}
