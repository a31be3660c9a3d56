use image::{Rgb, RgbImage};

use gavel_core::spec::EvaluatorName;

use super::*;

/// A run of the quickstart's size whose held-out prompts are edits, in `folder`.
fn edits_of(folder: &Path, prompts: &str) -> RunSpec {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
    let table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut spec = RunSpec::from_value(table).unwrap();
    spec.evaluation.as_mut().unwrap().evaluator = Some(EvaluatorName::Edits);
    let file = folder.join("held-out.jsonl");
    std::fs::write(&file, prompts).unwrap();
    spec.prompts.held_out = Some(file);
    spec
}

/// A run of edits in `folder`, all of whose files can be written to.
fn run_of_edits(folder: &Path) -> RunSpec {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("configs/quickstart-edit.toml")).unwrap();
    let mut spec = RunSpec::from_value(toml::from_str(&text).unwrap()).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    for name in ["source.png", "good.png", "bad.png"] {
        RgbImage::new(64, 64).save(folder.join(name)).unwrap();
    }
    let edit = r#"{"instruction": "make it blue", "source_image": "source.png"}"#;
    let labelled = r#"{"query": "make it blue", "source_image": "source.png", "edited_images": ["good.png", "bad.png"], "label_rank": [1, 2]}"#;
    spec.prompts.train = write("train.jsonl", edit);
    spec.prompts.held_out = Some(write("held-out.jsonl", edit));
    spec.judge.rubric = write("rubric.txt", "- It is blue.\n");
    let copy = |name: &str, from: &str| write(name, &std::fs::read_to_string(root.join(from)).unwrap());
    spec.judge.template = copy("judge.toml", "configs/judge/small-edit.toml");
    spec.judge.reasons = Some(ReasonsSpec {
        template: copy("reason.toml", "configs/rubric/small/reason.toml"),
        ..ReasonsSpec::default()
    });
    let evaluation = spec.evaluation.as_mut().unwrap();
    evaluation.evaluator = None;
    evaluation.labelled = Some(write("labelled.jsonl", labelled));
    spec
}

#[test]
fn each_file_is_a_part_of_what_a_run_is() {
    let folder = tempfile::tempdir().unwrap();
    let spec = run_of_edits(folder.path());
    let before = read(&spec).unwrap().assets;
    assert_eq!(before.differences(&read(&spec).unwrap().assets), <[&str; 0]>::default());
    let white = RgbImage::from_pixel(64, 64, Rgb([255; 3]));
    let (sources, labelled) = (
        ["prompts.train", "prompts.held_out", "evaluation.labelled"],
        ["evaluation.labelled"],
    );
    for (file, keys) in [
        ("train.jsonl", &["prompts.train"][..]),
        ("held-out.jsonl", &["prompts.held_out"]),
        ("labelled.jsonl", &labelled),
        ("rubric.txt", &["judge.rubric"]),
        ("judge.toml", &["judge.template"]),
        ("reason.toml", &["judge.reasons.template"]),
        ("source.png", &sources),
        ("good.png", &labelled),
    ] {
        let file = folder.path().join(file);
        let contents = std::fs::read(&file).unwrap();
        if file.extension().unwrap() == "png" {
            white.save(&file).unwrap();
        } else {
            let text = String::from_utf8(contents.clone()).unwrap();
            std::fs::write(&file, text.replace("blue", "red").replace("Image", "Picture")).unwrap();
        }
        let differences = before.differences(&read(&spec).unwrap().assets);
        assert_eq!(differences, keys, "{}", file.display());
        std::fs::write(&file, contents).unwrap();
    }
}

fn red_square_on_white(side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| match (x, y) {
        (6..26, 22..42) => Rgb([220, 40, 40]),
        _ => Rgb([245, 245, 245]),
    })
}

#[test]
fn held_out_edits_are_checked_with_their_sources_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    red_square_on_white(64).save(folder.path().join("source.png")).unwrap();
    red_square_on_white(96).save(folder.path().join("large.png")).unwrap();
    let read = |line: &str| {
        let spec = edits_of(folder.path(), line);
        held_out(&spec, true, &mut Pictures::new())
            .map_err(|error| error.to_string())
            .map(|prompts| prompts.tasks)
    };
    let good = read(r#"{"prompt": "make the red square blue", "source": "source.png"}"#);
    assert_eq!(good.unwrap()[0].sources.len(), 1);
    for (line, problem) in [
        (
            r#"{"prompt": "paint it blue", "source": "source.png"}"#,
            "prompt `paint it blue` is not an edit of a scene: `paint` where `make`, `remove`, `add` or `replace` should be",
        ),
        (
            r#"{"prompt": "remove the green circle", "source": "source.png"}"#,
            "prompt `remove the green circle`: the source picture shows no green object",
        ),
        (
            r#"{"prompt": "remove the red square", "source": "large.png"}"#,
            "prompt `remove the red square`: the source picture is 96x96, the `edits` rules read 64x64",
        ),
    ] {
        assert_eq!(read(line), Err(problem.to_owned()));
    }
}

#[test]
fn pictures_of_another_size_than_the_evaluators_are_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = edits_of(folder.path(), "");
    assert!(check_painted_size(&spec).is_ok());
    spec.sampling.width = 128;
    let error = format!("{:#}", check_painted_size(&spec).unwrap_err());
    assert!(
        error.contains("the picture is 128x64, the `edits` rules read 64x64"),
        "{error}"
    );
}
