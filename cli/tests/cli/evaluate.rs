//! `gavel evaluate` on the small models, given to the real binary.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{gavel, root, told};

const SMALL: &str = "tests/compatibility/small.toml";

/// Standard error of a command that must fail.
fn failure(arguments: &[&str]) -> String {
    let output = gavel(arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// What `--json` prints of subjects on the small run's held-out prompts.
fn evaluated(subjects: &[&str], out: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["evaluate", SMALL, "--json", "--out", out.to_str().unwrap()];
    for subject in subjects {
        arguments.extend(["--subject", subject]);
    }
    told(&[&arguments, more].concat())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The recorded run of two steps in a folder that a test may change.
fn run(folder: &TempDir) -> String {
    let run = folder.path().join("run");
    copy(&root().join("tests/compatibility/run"), &run);
    run.display().to_string()
}

/// The kept pictures, by name.
fn kept(out: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(out.join("pictures")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_finished_runs_own_evaluation_comes_out_the_same() {
    let folder = TempDir::new().unwrap();
    let run = run(&folder);
    told(&["run", SMALL, "--resume", "--out", &run]);
    let report = parse(&std::fs::read_to_string(Path::new(&run).join("report.json")).unwrap());
    let latest = format!("tuned={run}@latest");
    let found = parse(&evaluated(&["base", &latest], &folder.path().join("out"), &[]));
    let pair = &found["figures"]["pairs"][0];
    assert_eq!(pair["subjects"], json!(["base", "tuned"]));
    assert_eq!(pair["win_rate"], report["win_rate"]);
    let adherence = |subject: usize| &found["figures"]["subjects"][subject]["adherence"]["mean"];
    assert_eq!(*adherence(0), report["evaluation"]["before"]);
    assert_eq!(*adherence(1), report["evaluation"]["after"]);

    // The same adapter by way of its folder is the same subject, but for what it is called.
    let exported = format!("tuned={run}/adapter");
    let again = parse(&evaluated(&["base", &exported], &folder.path().join("out"), &[]));
    assert_eq!(
        (&again["figures"], &again["prompts"]),
        (&found["figures"], &found["prompts"])
    );
    assert_eq!(kept(&folder.path().join("out")).len(), 8, "nothing was painted twice");
}

#[test]
fn a_base_of_quantized_weights_is_another_one() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let pictures = |found: &str| -> Vec<Value> {
        let prompts = parse(found)["prompts"].as_array().unwrap().clone();
        prompts
            .iter()
            .map(|prompt| prompt["pictures"][0]["sha256"].clone())
            .collect()
    };
    let whole = pictures(&evaluated(&["base"], &out, &[]));
    let quantized = pictures(&evaluated(&["base"], &out, &["--set", "model.quantization=fp8"]));
    assert!(!whole.is_empty() && whole.iter().zip(&quantized).all(|(one, other)| one != other));
    assert_eq!(kept(&out).len(), 2 * whole.len());
}

#[test]
fn what_a_kill_left_is_gone_on_with_to_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let run = run(&folder);
    let (first, second) = (format!("first={run}@1"), format!("second={run}/checkpoints/step-2"));
    let subjects = ["base", &first, &second];
    let out = folder.path().join("out");
    let whole = evaluated(&subjects, &out, &[]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let page = read("evaluation.html");
    assert_eq!(parse(&read("evaluation.json")), parse(&whole));
    assert_eq!(parse(&whole)["figures"]["pairs"].as_array().unwrap().len(), 3);
    assert!(parse(&whole)["figures"]["subjects"][2]["strength"]["high"].is_f64());

    // A kill, or a full disk: some pictures are gone, one is cut short, and the verdicts are gone.
    let files = kept(&out);
    assert_eq!(files.len(), 12);
    for file in &files[..5] {
        std::fs::remove_file(file).unwrap();
    }
    let bytes = std::fs::read(&files[5]).unwrap();
    std::fs::write(&files[5], &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_file(out.join("answers.jsonl")).unwrap();
    assert_eq!(evaluated(&subjects, &out, &[]), whole);
    assert_eq!(read("evaluation.html"), page);
    assert_eq!(kept(&out), files);

    // What is kept is taken: another picture in a kept one's place is what is evaluated.
    let others = parse(&whole)["prompts"][0]["pictures"][0]["sha256"].clone();
    let stranger = RgbImage::from_pixel(64, 64, Rgb([15; 3]));
    for file in &files {
        stranger.save(file).unwrap();
    }
    let changed = parse(&evaluated(&subjects, &out, &["--no-judge"]));
    assert_ne!(changed["prompts"][0]["pictures"][0]["sha256"], others);
    assert_eq!(changed["figures"]["subjects"][0]["diversity"], 0.0);
    assert!(changed["figures"].get("pairs").is_none());
}

#[test]
fn one_policy_under_two_names_is_painted_and_asked_about_once() {
    let folder = TempDir::new().unwrap();
    let run = run(&folder);
    let out = folder.path().join("out");
    let (last, again) = (format!("last={run}@2"), format!("again={run}@latest"));
    let found = parse(&evaluated(&["base", &last, &again], &out, &["--set", "judge.batch=8"]));
    assert_eq!(kept(&out).len(), 8, "four prompts by two policies");
    let figures = &found["figures"]["pairs"];
    assert_eq!(figures[0]["win_rate"], figures[1]["win_rate"]);
    // Of each prompt the verdicts on base and policy, and on the policy and itself; and when the journal began.
    let journal = std::fs::read_to_string(out.join("answers.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 1 + 2 * 4);
}

#[test]
fn shards_come_to_the_bytes_of_one_process() {
    let folder = TempDir::new().unwrap();
    let run = run(&folder);
    let tuned = format!("tuned={run}@2");
    let subjects = ["base", &tuned];
    let whole = evaluated(&subjects, &folder.path().join("whole"), &["--quality"]);
    let out = folder.path().join("shared");
    let out_text = out.to_str().unwrap();
    let asking = [
        "evaluate",
        SMALL,
        "--subject",
        "base",
        "--subject",
        &tuned,
        "--out",
        out_text,
        "--quality",
    ];
    for (shard, prompts, pictures) in [("3/3", 2, 4), ("1/3", 1, 6), ("2/3", 1, 8), ("2/3", 1, 8)] {
        let told = told(&[&asking[..], &["--shard", shard]].concat());
        assert!(
            told.contains(&format!("shard {shard}: {prompts} of 4 prompts are kept")),
            "{told}"
        );
        assert_eq!(kept(&out).len(), pictures, "{shard}");
    }
    assert!(!out.join("evaluation.json").exists());
    let lines = |file: &str| std::fs::read_to_string(out.join(file)).unwrap().lines().count();
    // Of each prompt a verdict, and six answers about each picture, beside the line that says when it began.
    assert_eq!(["answers-1-of-3.jsonl", "answers-3-of-3.jsonl"].map(lines), [14, 27]);
    // Another number of shards asks nothing again, nor does the end; both write no more than that they began.
    told(&[&asking[..], &["--shard", "1/2"]].concat());
    assert_eq!(evaluated(&subjects, &out, &["--quality"]), whole);
    assert_eq!(["answers-1-of-2.jsonl", "answers.jsonl"].map(lines), [1, 1]);
    let read = |out: &Path| std::fs::read(out.join("evaluation.html")).unwrap();
    assert_eq!(read(&out), read(&folder.path().join("whole")));
    let refused = failure(&[&asking[..], &["--shard", "4/3"]].concat());
    assert!(refused.contains("write it as NUMBER/SHARDS"), "{refused}");
}

#[test]
fn folders_of_pictures_need_no_model_and_each_group_has_its_figures() {
    let folder = TempDir::new().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    let lines = [
        r#"{"prompt": "a red square left of a blue square on a white background", "tag": "two <objects>"}"#,
        r#"{"prompt": "a red square on a white background", "tag": "one"}"#,
        r#"{"prompt": "a photo of a cat", "tag": "one"}"#,
    ];
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let square = |x: u32, y: u32, left: u32| (left..left + 20).contains(&x) && (22..42).contains(&y);
    let scene = RgbImage::from_fn(64, 64, |x, y| match (square(x, y, 6), square(x, y, 38)) {
        (true, _) => Rgb([220, 40, 40]),
        (_, true) => Rgb([50, 80, 220]),
        _ => Rgb([245, 245, 245]),
    });
    for (name, picture) in [("good", scene), ("grey", RgbImage::from_pixel(64, 64, Rgb([128; 3])))] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        for index in 0..3 {
            picture
                .save(folder.path().join(format!("{name}/{index:05}.png")))
                .unwrap();
        }
    }
    let subject = |name: &str| format!("{name}={}", folder.path().join(name).display());
    let out = folder.path().join("out");
    let found = parse(&evaluated(
        &[&subject("grey"), &subject("good")],
        &out,
        &[
            "--prompts",
            prompts.to_str().unwrap(),
            "--by",
            "tag",
            "--set",
            "model.path=nowhere",
        ],
    ));
    let adherence = |figures: &Value, subject: usize| figures["subjects"][subject]["adherence"].clone();
    assert_eq!(adherence(&found["figures"], 1)["pictures"], 2, "the cat is no scene");
    let values: Vec<&Value> = found["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| &group["value"])
        .collect();
    assert_eq!(values, ["two <objects>", "one"]);
    let two = &found["groups"][0]["figures"];
    assert_eq!(
        (
            adherence(two, 1)["mean"].clone(),
            adherence(two, 1)["all"]["value"].clone()
        ),
        (json!(1.0), json!(1.0))
    );
    assert!(adherence(two, 0)["mean"].as_f64().unwrap() < 0.5);
    // The good picture shows a blue square that the second prompt does not ask for.
    assert_eq!(
        adherence(&found["groups"][1]["figures"], 1)["facts"]["no_extra"]["value"],
        0.0
    );
    assert_eq!(found["figures"]["pairs"][0]["win_rate"]["prompts"], 3);
    let page = std::fs::read_to_string(out.join("evaluation.html")).unwrap();
    assert!(page.contains("two &lt;objects&gt;") && !page.contains("two <objects>") && !page.contains("<script"));
}

#[test]
fn several_pictures_of_a_prompt_begin_with_the_one_of_before_and_are_compared_sample_by_sample() {
    let folder = TempDir::new().unwrap();
    let run = run(&folder);
    let tuned = format!("tuned={run}@2");
    let subjects = ["base", &tuned];
    let out = folder.path().join("out");
    let one = parse(&evaluated(&subjects, &out, &[]));
    assert_eq!(kept(&out).len(), 8);
    let text = evaluated(&subjects, &out, &["--samples", "3"]);
    let three = parse(&text);
    assert_eq!(kept(&out).len(), 24, "the first ones are those of before");
    assert_eq!(
        (&three["figures"]["samples"], one["figures"].get("samples")),
        (&json!(3), None)
    );
    let pictures = three["prompts"][1]["pictures"].as_array().unwrap();
    let named: Vec<(&str, u64)> = pictures
        .iter()
        .map(|one| (one["subject"].as_str().unwrap(), one["sample"].as_u64().unwrap()))
        .collect();
    let expected = ["base", "tuned"].map(|subject| [0, 1, 2].map(|sample| (subject, sample)));
    assert_eq!(named, expected.concat());
    let hash = |found: &Value, picture: usize| found["prompts"][1]["pictures"][picture]["sha256"].clone();
    assert_eq!((hash(&three, 0), hash(&three, 3)), (hash(&one, 0), hash(&one, 1)));
    assert!(hash(&three, 1) != hash(&three, 0) && hash(&three, 2) != hash(&three, 1));
    let verdicts = three["prompts"][1]["verdicts"].as_array().unwrap();
    assert_eq!(
        verdicts.iter().map(|one| one["sample"].clone()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(
        verdicts[0]["order_probabilities"],
        one["prompts"][1]["verdicts"][0]["order_probabilities"]
    );
    let base = &three["figures"]["subjects"][0];
    assert_eq!(base["adherence"]["pictures"], 12);
    assert!(base["diversity_within"].as_f64().unwrap() > 0.0);
    assert!(one["figures"]["subjects"][0].get("diversity_within").is_none());
    assert_eq!(three["figures"]["pairs"][0]["win_rate"]["prompts"], 12);
    assert_eq!(three["figures"]["differences"][0]["facts"]["count"], 4);
    let page = std::fs::read_to_string(out.join("evaluation.html")).unwrap();
    assert!(page.contains("All 4 prompts, 3 pictures of each") && page.contains("sample 2"));

    // Shards paint all samples of their prompts, and the pictures of a folder are the same ones.
    let shared = folder.path().join("shared");
    let shards = ["--samples", "3", "--shard", "1/2"];
    let out_text = shared.to_str().unwrap();
    told(
        &[
            &[
                "evaluate",
                SMALL,
                "--subject",
                "base",
                "--subject",
                &tuned,
                "--out",
                out_text,
            ][..],
            &shards[..],
        ]
        .concat(),
    );
    assert_eq!(kept(&shared).len(), 12);
    assert_eq!(evaluated(&subjects, &shared, &["--samples", "3"]), text);
    let copies = folder.path().join("copies");
    for (prompt, record) in three["prompts"].as_array().unwrap().iter().enumerate() {
        std::fs::create_dir_all(copies.join(format!("{prompt:05}/samples"))).unwrap();
        for picture in &record["pictures"].as_array().unwrap()[..3] {
            let hash = |file: &Path| {
                let read = gavel_core::ids::Digest::of(&std::fs::read(file).unwrap());
                json!(read) == picture["sha256"]
            };
            let file = kept(&out).into_iter().find(|file| hash(file)).unwrap();
            let name = format!("{prompt:05}/samples/{:04}.png", picture["sample"].as_u64().unwrap());
            std::fs::copy(file, copies.join(name)).unwrap();
        }
    }
    let copied = format!("base={}", copies.display());
    let again = parse(&evaluated(&[&copied, &tuned], &out, &["--samples", "3"]));
    assert_eq!(again["figures"], three["figures"]);

    let few = [
        "evaluate",
        SMALL,
        "--samples",
        "4",
        "--subject",
        &copied,
        "--out",
        out_text,
    ];
    let refused = failure(&few);
    assert!(
        refused.contains("has no picture of sample 3 of prompt 0") && refused.contains("--samples"),
        "{refused}"
    );
    let connected = [
        &[
            "evaluate",
            SMALL,
            "--samples",
            "2",
            "--subject",
            "base",
            "--subject",
            &tuned,
        ][..],
        &["--out", out_text, "--connect", "http://127.0.0.1:1"],
    ]
    .concat();
    let refused = failure(&connected);
    assert!(
        refused.contains("one picture of each prompt") && refused.contains("--shard"),
        "{refused}"
    );
}

#[test]
fn questions_of_the_records_are_answered_once() {
    let folder = TempDir::new().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    let lines = [
        r#"{"prompt": "a red square on a white background", "questions": ["Is there a square?", "Is the background white?"]}"#,
        r#"{"prompt": "a blue circle on a gray background"}"#,
    ];
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let out = folder.path().join("out");
    let asking = ["--prompts", prompts.to_str().unwrap()];
    let first = evaluated(&["base"], &out, &asking);
    let found = parse(&first);
    let answers = &found["prompts"][0]["pictures"][0]["questions"];
    assert_eq!(answers.as_array().unwrap().len(), 2);
    assert_eq!(answers[1]["question"], "Is the background white?");
    assert!(
        answers[0]["yes"].is_boolean(),
        "the model can say nothing but yes and no: {answers}"
    );
    assert!(found["prompts"][1]["pictures"][0].get("questions").is_none());
    let figures = &found["figures"]["subjects"][0]["questions"];
    assert_eq!((&figures["asked"], &figures["unanswered"]), (&json!(2), &json!(0)));
    let kept = || std::fs::read_to_string(out.join("answers.jsonl")).unwrap();
    let journal = kept();
    assert_eq!(evaluated(&["base"], &out, &asking), first);
    assert_eq!(kept(), journal, "nothing is asked twice");
    // What is kept is taken.
    let other = journal.replace("yes", "?").replace("no", "yes").replace('?', "no");
    std::fs::write(out.join("answers.jsonl"), other).unwrap();
    let changed = parse(&evaluated(&["base"], &out, &asking));
    assert_ne!(changed["prompts"][0]["pictures"][0]["questions"], *answers);

    let silent = parse(&evaluated(
        &["base"],
        &out,
        &[&asking[..], &["--no-questions"]].concat(),
    ));
    assert!(silent["figures"]["subjects"][0].get("questions").is_none() && silent.get("questioned").is_none());

    std::fs::write(
        &prompts,
        r#"{"prompt": "a red square on a white background", "questions": "Is it?"}"#,
    )
    .unwrap();
    let arguments = ["evaluate", SMALL, "--subject", "base", "--out", out.to_str().unwrap()];
    let refused = failure(&[&arguments[..], &asking].concat());
    assert!(
        refused.contains("record 0 of the prompts: its field `questions` is one text, not a list of texts"),
        "{refused}"
    );
}

#[test]
fn a_table_of_questions_and_those_of_every_picture_are_asked() {
    let folder = TempDir::new().unwrap();
    let prompts = folder.path().join("prompts");
    std::fs::create_dir(&prompts).unwrap();
    std::fs::write(prompts.join("cup.txt"), "a red square on a white background").unwrap();
    std::fs::write(prompts.join("tray.txt"), "a blue circle on a gray background").unwrap();
    let table = folder.path().join("questions.csv");
    let lines = [
        "item_id,text,proposition_id,dependency,category_broad,question_natural_language",
        "cup,x,1,0,entity,Is there a square?",
        "cup,x,2,1,attribute,Is the square red?",
    ];
    std::fs::write(&table, lines.join("\n")).unwrap();
    let out = folder.path().join("out");
    let asking = [
        "--prompts",
        prompts.to_str().unwrap(),
        "--questions",
        table.to_str().unwrap(),
    ];
    let everywhere = ["--quality", "--fulfilment"];
    let found = parse(&evaluated(&["base"], &out, &[&asking[..], &everywhere].concat()));
    let picture = |prompt: usize| &found["prompts"][prompt]["pictures"][0];
    let expected = json!({"question": "Is the square red?", "kind": "attribute", "needs": [0]});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&picture(0)["questions"][1][field], value);
    }
    assert!(picture(1).get("questions").is_none());
    let figures = &found["figures"]["subjects"][0];
    assert_eq!(figures["questions"]["asked"], 2);
    assert!(figures["questions"]["kinds"]["entity"]["value"].is_number() && figures["questions"]["score"].is_number());
    let quality = picture(1)["quality"].as_array().unwrap().len();
    assert_eq!(figures["quality"]["asked"], 2 * quality);
    assert_eq!(figures["fulfilment"]["asked"], 4);
    let asked = picture(1)["fulfilment"][0]["question"].as_str().unwrap();
    assert!(asked.ends_with("a blue circle on a gray background"), "{asked}");
    let kinds: Vec<&String> = figures["quality"]["kinds"].as_object().unwrap().keys().collect();
    assert_eq!(kinds, ["artifacts", "coherence"]);

    std::fs::write(&table, lines.join("\n").replace("cup,", "mug,")).unwrap();
    let arguments = ["evaluate", SMALL, "--subject", "base", "--out", out.to_str().unwrap()];
    let refused = failure(&[&arguments[..], &asking].concat());
    assert!(
        refused.contains("no question is about one of the 2 prompts"),
        "{refused}"
    );
}

#[test]
fn a_copy_of_the_source_keeps_everything_and_edits_nothing() {
    let folder = TempDir::new().unwrap();
    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let lines = std::fs::read_to_string(root().join("configs/quickstart-edit/held-out.jsonl")).unwrap();
    for (index, line) in lines.lines().take(3).enumerate() {
        let source = root()
            .join("configs/quickstart-edit")
            .join(parse(line)["source_image"].as_str().unwrap());
        std::fs::copy(source, copies.join(format!("{index}.png"))).unwrap();
    }
    let subject = format!("copy={}", copies.display());
    let out = folder.path().join("out");
    let found = parse(&told(&[
        "evaluate",
        "configs/quickstart-edit.toml",
        "--set",
        "evaluation.prompts=3",
        "--subject",
        "base",
        "--subject",
        &subject,
        "--dinov2",
        "tests/golden/dinov2/own-size",
        "--json",
        "--out",
        out.to_str().unwrap(),
    ]));
    let [base, copy] = [0, 1].map(|index| &found["figures"]["subjects"][index]);
    assert_eq!(
        (&copy["source"]["whole"]["identical"], &copy["source"]["changed"]),
        (&json!(3), &json!(0.0))
    );
    assert_eq!(
        (&copy["preservation"], &copy["source"]["whole"]["ssim"]),
        (&json!(1.0), &json!(1.0))
    );
    assert!(copy["adherence"]["all"]["value"] == json!(0.0), "{copy}");
    let similarity = |subject: &Value| subject["similarity"].as_f64().unwrap();
    assert!((similarity(copy) - 1.0).abs() < 1e-12 && similarity(base) < 1.0);
    assert!(base["source"]["whole"]["l1"].as_f64().unwrap() > 0.0);
    assert_eq!(base["source"]["regions"], json!({"picture": 3}));
}

#[test]
fn what_is_missing_is_named_before_anything_is_painted() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out").display().to_string();
    let refused = |subject: &str| failure(&["evaluate", SMALL, "--out", &out, "--subject", subject]);
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let empty = refused(&format!("mine={}", folder.path().join("empty").display()));
    assert!(
        empty.contains("has no picture of prompt 0, and of 4 of the 4 prompts in all"),
        "{empty}"
    );
    let absent = refused("mine=nowhere");
    assert!(absent.contains("subject `mine`: there is no `nowhere`"), "{absent}");
    let run = run(&folder);
    let later = refused(&format!("{run}@9"));
    assert!(later.contains("the run has no policy of step 9"), "{later}");
    let odd = refused(&format!("{run}@last"));
    assert!(odd.contains("`last` is no step of a run"), "{odd}");
    let whole = refused(&format!("mine={run}"));
    assert!(
        whole.contains("is the folder of a run") && whole.contains("@latest"),
        "{whole}"
    );
    let sources = failure(&[
        "evaluate",
        SMALL,
        "--out",
        &out,
        "--subject",
        "base",
        "--dinov2",
        "tests/golden/dinov2/own-size",
    ]);
    assert!(sources.contains("no record of the prompts has a source"), "{sources}");
    assert!(!Path::new(&out).exists());

    let edits = folder.path().join("edits.jsonl");
    let source = root()
        .join("examples/quickstart-edit/sources/0013.png")
        .display()
        .to_string();
    let record = json!({"prompt": "make the red circle blue", "source_image": [source, source]});
    std::fs::write(&edits, record.to_string()).unwrap();
    let two = failure(&[
        "evaluate",
        "configs/quickstart-edit.toml",
        "--out",
        &out,
        "--subject",
        "base",
        "--prompts",
        edits.to_str().unwrap(),
    ]);
    assert!(
        two.contains("record 0 has 2 source pictures, the model of `model.path` takes 1"),
        "{two}"
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_picture_that_is_none_and_a_server_that_refuses_the_key_are_told_before_anything_is_painted() {
    let folder = TempDir::new().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for index in 0..4 {
        std::fs::write(pictures.join(format!("{index}.png")), "no picture").unwrap();
    }
    let out = folder.path().join("out");
    let mine = format!("mine={}", pictures.display());
    let evaluate = ["evaluate", SMALL, "--out", out.to_str().unwrap(), "--subject", "base"];
    let broken = failure(&[&evaluate[..], &["--subject", &mine]].concat());
    assert!(broken.contains("0.png") && kept(&out).is_empty(), "{broken}");

    let server = refusing_server();
    let endpoint = format!("judge.endpoint={server}/v1");
    let asked = [
        "--set",
        "judge.family=openai",
        "--set",
        &endpoint,
        "--set",
        "judge.model=m",
        "--quality",
    ];
    let local = ["judge.path=", "judge.device=", "judge.dtype="]
        .map(|key| ["--set", key])
        .concat();
    let refused = failure(&[&evaluate[..], &asked, &local].concat());
    assert!(refused.contains("401") && refused.contains("api_key_env"), "{refused}");
    assert!(kept(&out).is_empty());
}

/// The address of a server that knows nobody.
fn refusing_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            if std::io::Read::read(&mut stream, &mut head).unwrap() > 0 {
                let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
            }
        }
    });
    format!("http://{address}")
}
