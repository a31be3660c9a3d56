//! Generation with a scripted writer and a scripted judge.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::Hint as _;
use gavel_core::ids::Digest;
use gavel_core::work::{AbstainReason, Orders, Side, Usage, VerdictRecord};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::data::{Example, Picture};
use crate::{ChatReply, ChatRequest, JudgedPair, Part, RubricFile};

/// Writes numbered criteria: the caption's number, the round, and the word "good" from the second round on.
#[derive(Default)]
struct Writer {
    asked: Mutex<Vec<String>>,
    /// Answers of the theme question, the last one again and again.
    themes: Vec<String>,
    themes_asked: AtomicUsize,
    /// Gives up after so many answers.
    dies_after: Option<usize>,
}

fn words(request: &ChatRequest<'_>) -> String {
    let parts = request.messages.iter().flat_map(|message| &message.content);
    parts
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Image(place) => format!("<{:?}>", request.images[*place].get_pixel(0, 0).0),
        })
        .collect()
}

impl Chat for Writer {
    fn name(&self) -> &str {
        "writer"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"writer")
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let words = words(request);
        {
            let mut asked = self.asked.lock().unwrap();
            if self.dies_after.is_some_and(|most| asked.len() >= most) {
                return Err(AskError::Unavailable {
                    reason: "gone".into(),
                    hint: None,
                    said: None,
                });
            }
            asked.push(format!("{} {} {words}", request.seed, request.temperature));
        }
        let text = if words.contains("themes or fewer") {
            let turn = self.themes_asked.fetch_add(1, Ordering::SeqCst);
            match self.themes.get(turn).or(self.themes.last()) {
                Some(text) => text.clone(),
                None => {
                    let tips: Vec<&str> = words.lines().filter_map(|line| line.strip_prefix("- ")).collect();
                    json!({"themes": [{"theme": "All", "tips": tips}]}).to_string()
                }
            }
        } else if words.contains("Answer with JSON only: {\"score\"") {
            let score = if words.contains("good") { 4 } else { 2 };
            json!({ "score": score }).to_string()
        } else {
            let caption = words
                .lines()
                .find(|line| line.starts_with("caption "))
                .unwrap_or("caption ?");
            let quality = if words.contains("were tried") { "good" } else { "plain" };
            if caption.ends_with('9') {
                "I would rather not say.".into()
            } else {
                json!({"criteria": [format!("{quality} {caption}."), "Sharp.", "sharp"]}).to_string()
            }
        };
        Ok(ChatReply {
            text,
            complete: true,
            usage: Usage::default(),
        })
    }
}

/// Sees what people saw under criteria that say "good"; odd captions at once; captions that end in 8 never.
#[derive(Default)]
struct Sage {
    asked: AtomicUsize,
}

impl Judge for Sage {
    fn name(&self) -> &str {
        "sage"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"sage")
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        self.asked.fetch_add(pairs.len(), Ordering::SeqCst);
        let record = |pair: &JudgedPair<'_>| {
            let number: usize = pair.prompt.trim_start_matches("caption ").parse().unwrap();
            let sees = number % 10 != 8 && (number % 2 == 1 || pair.rubric.text().contains("good"));
            // The greener picture is the better one.
            let side = if pair.first.get_pixel(0, 0).0[1] > pair.second.get_pixel(0, 0).0[1] {
                Side::First
            } else {
                Side::Second
            };
            VerdictRecord {
                prompt_index: pair.prompt_index,
                verdict: if sees {
                    Verdict::Preferred { side }
                } else {
                    Verdict::Abstain {
                        reason: AbstainReason::OrdersDisagree,
                    }
                },
                probability_first: 0.5,
                order_probabilities: [0.5; 2],
                rubric: pair.rubric.digest(),
                votes: Vec::new(),
                reasons: Vec::new(),
                difference: None,
                scores: None,
                orders: Orders::Both,
            }
        };
        Ok(pairs.iter().map(record).collect())
    }
}

fn picture(colour: [u8; 3]) -> Picture {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(1, 1, image::Rgb(colour))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    Picture {
        digest: Digest::of(bytes.get_ref()),
        encoded: bytes.into_inner(),
    }
}

fn example(index: usize, label: Label) -> Example {
    let (green, red) = (picture([0, 200, index as u8]), picture([200, 0, index as u8]));
    let responses = match &label {
        Label::Rank(ranks) if ranks[0] == 1 => vec![green, red],
        Label::Rank(_) => vec![red, green],
        Label::Score { .. } => vec![green],
    };
    Example {
        place: crate::data::Place { index, line: None },
        prompt: format!("caption {index}"),
        source: None,
        responses,
        label,
    }
}

fn pairs(count: usize) -> LabelledSet {
    let label = |index| Label::Rank(if index % 3 == 0 { vec![1, 2] } else { vec![2, 1] });
    LabelledSet {
        examples: (0..count).map(|index| example(index, label(index))).collect(),
        task: Task::TextToImage,
        labelling: Labelling::Ranked,
    }
}

fn settings() -> Settings {
    Settings {
        criteria: 3,
        rounds: 2,
        ..Settings::default()
    }
}

fn generate(
    writer: &Writer,
    sage: &Sage,
    journal: Option<&Journal>,
    threads: usize,
    settings: Settings,
    data: &LabelledSet,
) -> Result<Generated, GenerateError> {
    let prompts = Prompts::built_in(Language::English, data.labelling).unwrap();
    let generator = Generator {
        chat: writer,
        judge: sage,
        embed: &HashedNgrams,
        prompts: &prompts,
        journal,
        threads,
        settings,
        progress: &|_| {},
    };
    generator.generate(data, Some("test"), "data.json")
}

fn alone(data: &LabelledSet, settings: Settings) -> RubricSet {
    generate(&Writer::default(), &Sage::default(), None, 1, settings, data)
        .unwrap()
        .rubric
}

fn verification(rubric: &RubricSet) -> Verification {
    rubric.provenance.clone().unwrap().verification.unwrap()
}

#[test]
fn criteria_are_verified_revised_and_dropped() {
    let rubric = alone(&pairs(10), settings());
    let found = verification(&rubric);
    // 9 is never readable, 8 never verified, the other odd ones at once, the other even ones after a revision.
    assert_eq!(
        (found.examples, found.verified, found.dropped, found.unreadable),
        (10, 8, 2, 1)
    );
    assert_eq!(found.verified_by_round, [4, 4, 0]);
    let criteria: Vec<&str> = rubric.criteria().collect();
    assert_eq!(criteria.len(), 9);
    assert!(
        criteria.contains(&"good caption 4.") && criteria.contains(&"plain caption 5.") && criteria.contains(&"Sharp.")
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), RubricFile::of_set(rubric.clone()).to_toml().unwrap()).unwrap();
    assert_eq!(RubricFile::load(file.path()).unwrap().general(), rubric);
}

#[test]
fn the_writer_sees_the_pictures_the_label_and_what_went_wrong() {
    let writer = Writer::default();
    generate(&writer, &Sage::default(), None, 1, settings(), &pairs(1)).unwrap();
    let asked = writer.asked.lock().unwrap();
    assert!(
        asked[0].contains("Picture 1:\n<[0, 200, 0]>\nPicture 2:\n<[200, 0, 0]>"),
        "{}",
        asked[0]
    );
    assert!(asked[0].contains("picture 1 better. Write exactly 3"));
    assert!(
        asked[1].contains("- plain caption 0.\n- Sharp.\n") && asked[1].contains("no clear choice"),
        "{}",
        asked[1]
    );
}

#[test]
fn threads_do_not_change_the_rubric() {
    let data = pairs(23);
    let one = alone(&data, settings());
    for threads in [2, 7, 40] {
        let many = generate(&Writer::default(), &Sage::default(), None, threads, settings(), &data).unwrap();
        assert_eq!(many.rubric, one);
    }
}

#[test]
fn a_journal_cut_at_any_line_gives_the_same_bytes_and_asks_nothing_twice() {
    let data = pairs(6);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("journal");
    let run = |threads| {
        let journal = Journal::open(&file, "monday").unwrap();
        let (writer, sage) = (Writer::default(), Sage::default());
        let made = generate(&writer, &sage, Some(&journal), threads, settings(), &data).unwrap();
        let calls = writer.asked.lock().unwrap().len() + sage.asked.load(Ordering::SeqCst);
        assert_eq!(made.asked, calls);
        (RubricFile::of_set(made.rubric).to_toml().unwrap(), calls)
    };
    let (whole, calls) = run(1);
    let bytes = std::fs::read(&file).unwrap();
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, calls + 1);
    // Every line, and some places within lines.
    let cuts: BTreeSet<usize> = (0..bytes.len())
        .filter(|place| bytes[*place] == b'\n')
        .flat_map(|place| [place, place + 1, (place + 7).min(bytes.len())])
        .chain([0])
        .collect();
    for cut in cuts {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        let kept = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
        let (again, asked) = run(3);
        assert_eq!(again, whole, "cut at {cut}");
        assert_eq!(asked, calls - kept.saturating_sub(1), "cut at {cut}");
    }
}

#[test]
fn an_endpoint_that_goes_away_loses_nothing_that_was_answered() {
    let data = pairs(6);
    let whole = alone(&data, settings());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("journal");
    for dies_after in 0..40 {
        let journal = Journal::open(&file, "monday").unwrap();
        let writer = Writer {
            dies_after: Some(dies_after % 4),
            ..Writer::default()
        };
        match generate(&writer, &Sage::default(), Some(&journal), 2, settings(), &data) {
            Ok(made) => {
                assert_eq!(made.rubric.themes, whole.themes);
                return;
            }
            Err(error) => assert!(matches!(error, GenerateError::Ask(AskError::Unavailable { .. }))),
        }
    }
    panic!("the generation never ended");
}

#[test]
fn a_bad_grouping_is_asked_for_again_and_repaired() {
    let data = pairs(6);
    let grouped = |themes: Vec<String>| {
        let writer = Writer {
            themes,
            ..Writer::default()
        };
        let made = generate(&writer, &Sage::default(), None, 1, settings(), &data).unwrap();
        (made.rubric.themes, made.rubric.provenance.unwrap().structuring.unwrap())
    };
    let all: Vec<String> = alone(&data, settings()).criteria().map(str::to_owned).collect();
    let bad = json!({"themes": [
        {"theme": "Captions", "tips": ["Good caption 0", "good caption 0.", "made up"]},
        {"theme": "Empty", "tips": ["invented too"]},
    ]})
    .to_string();
    let (themes, record) = grouped(vec!["nothing readable".into(), bad.clone(), bad.clone()]);
    assert_eq!(
        (record.asked, record.doubled, record.invented, record.lost),
        (3, 1, 2, all.len() - 1)
    );
    let names: Vec<&str> = themes.iter().filter_map(|theme| theme.name.as_deref()).collect();
    assert_eq!(names, ["Captions", "Other"]);
    assert_eq!(themes[1].tips, ["Sharp."]);
    let mut found: Vec<String> = themes.iter().flat_map(|theme| theme.tips.clone()).collect();
    let mut expected = all.clone();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let good = json!({"themes": [{"theme": "Everything", "tips": all}]}).to_string();
    let (themes, record) = grouped(vec![bad, good]);
    assert_eq!(
        (
            themes.len(),
            record.asked,
            record.lost + record.invented + record.doubled
        ),
        (1, 2, 0)
    );
}

#[test]
fn scores_are_recovered_by_the_writer_itself() {
    let label = |value| Label::Score { value, min: 1, max: 5 };
    let data = LabelledSet {
        examples: vec![example(0, label(2)), example(1, label(4)), example(2, label(5))],
        task: Task::TextToImage,
        labelling: Labelling::Scored,
    };
    let sage = Sage::default();
    let made = generate(&Writer::default(), &sage, None, 2, settings(), &data).unwrap();
    let found = verification(&made.rubric);
    // The plain criteria give 2, the revised ones 4; nothing gives 5.
    assert_eq!((found.verified_by_round, found.dropped), (vec![1, 1, 0], 1));
    assert_eq!(sage.asked.load(Ordering::SeqCst), 0);
    let lenient = Settings {
        score_tolerance: 1,
        ..settings()
    };
    assert_eq!(verification(&alone(&data, lenient)).dropped, 0);
}

#[test]
fn many_examples_are_selected_from() {
    let data = pairs(40);
    let selective = Settings {
        select_above: 30,
        criteria_max: 7,
        ..settings()
    };
    let rubric = alone(&data, selective.clone());
    let found = verification(&rubric);
    assert_eq!((found.examples_used, found.criteria_selected), (40, 7));
    assert!(found.criteria_verified > 7 && found.coding_rate_selected > 0.0);
    assert_eq!(alone(&data, selective.clone()), rubric);
    // Nothing new can gain this much: two batches are enough.
    let sated = Settings {
        gain_min: 1e9,
        ..selective
    };
    let error = generate(&Writer::default(), &Sage::default(), None, 1, sated, &data);
    assert!(
        error.is_ok_and(|made| verification(&made.rubric).examples_used == 20 && made.rubric.criteria().count() == 1)
    );
}

#[test]
fn nothing_verified_and_wrong_settings_are_errors() {
    let mut data = pairs(10);
    data.examples.drain(..8);
    let fail = |settings| generate(&Writer::default(), &Sage::default(), None, 1, settings, &data).unwrap_err();
    let error = fail(settings());
    assert_eq!(
        error.to_string(),
        "no criteria could be verified: 2 examples dropped, 1 of them without a readable answer"
    );
    assert!(error.hint().is_some());
    let error = fail(Settings {
        epsilon: f64::NAN,
        ..settings()
    });
    assert_eq!(error.to_string(), "`epsilon` must be above 0");
}

#[test]
fn built_in_prompts_render_in_both_languages_for_every_kind_of_example() {
    for language in [Language::English, Language::Chinese] {
        for labelling in [Labelling::Ranked, Labelling::Scored] {
            let prompts = Prompts::built_in(language, labelling).unwrap();
            assert_eq!(prompts.score.is_some(), labelling == Labelling::Scored);
        }
    }
}
