//! Weights of a judge that measures colours.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::Mutex;

use gavel_core::Hint as _;
use gavel_core::ids::Digest;
use gavel_core::work::{Verdict, VerdictRecord};
use image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::data::{Example, Label, Picture, Place, Task};
use crate::{AskError, JudgedPair, RubricFile};

/// Leans by how much more of a colour the first picture has; "Loud." says nothing, and a pair of the prompt "torn" cannot be judged.
#[derive(Default)]
struct Colorimeter {
    asked: Mutex<Vec<(u32, String)>>,
    dies_after: Option<usize>,
}

impl Judge for Colorimeter {
    fn name(&self) -> &str {
        "colorimeter"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"colorimeter")
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        let mut asked = self.asked.lock().unwrap();
        if self.dies_after.is_some_and(|most| asked.len() >= most) {
            return Err(AskError::Unavailable {
                reason: "gone".into(),
                hint: None,
                said: None,
            });
        }
        let verdict = |pair: &JudgedPair<'_>| {
            let mut criteria = pair.rubric.criteria();
            let words = criteria.next().unwrap().to_owned();
            assert_eq!(criteria.next(), None, "one criterion at a time");
            let more = |channel: usize| {
                let [first, second] =
                    [pair.first, pair.second].map(|image| f64::from(image.get_pixel(0, 0).0[channel]));
                (first - second) / 50.0
            };
            let lean = match words.as_str() {
                "Red." => more(0),
                "Green." => more(1),
                "Dark." => -more(0) - more(1),
                _ => 0.0,
            };
            asked.push((pair.prompt_index.0, words));
            let side = if lean > 0.0 { Side::First } else { Side::Second };
            let failed = VerdictRecord::failed(pair.prompt_index, "torn".into(), pair.rubric.digest());
            match pair.prompt {
                "torn" => failed,
                _ => VerdictRecord {
                    verdict: Verdict::Preferred { side },
                    order_probabilities: [logistic(lean); 2],
                    ..failed
                },
            }
        };
        Ok(pairs.iter().map(verdict).collect())
    }
}

fn picture(colour: [u8; 3]) -> Picture {
    let mut encoded = Cursor::new(Vec::new());
    RgbImage::from_pixel(1, 1, Rgb(colour))
        .write_to(&mut encoded, ImageFormat::Png)
        .unwrap();
    let encoded = encoded.into_inner();
    Picture {
        digest: Digest::of(&encoded),
        encoded,
    }
}

/// People prefer red, and half as much green; every ninth time they err.
fn labelled(pairs: usize, prompt: impl Fn(usize) -> String) -> LabelledSet {
    let example = |index: usize| {
        let colour = |seed: usize| [seed * 37 % 200, seed * 91 % 200, seed * 53 % 200].map(|level| level as u8);
        let colours = [colour(2 * index + 1), colour(2 * index + 2)];
        let worth = colours.map(|[red, green, _]| 2 * i32::from(red) + i32::from(green));
        let is_first = (worth[0] > worth[1]) != (index % 9 == 8);
        Example {
            place: Place { index, line: None },
            prompt: prompt(index),
            source: None,
            responses: colours.map(picture).to_vec(),
            label: Label::Rank(if is_first { vec![1, 2] } else { vec![2, 1] }),
        }
    };
    LabelledSet {
        examples: (0..pairs).map(example).collect(),
        task: Task::TextToImage,
        labelling: Labelling::Ranked,
    }
}

fn numbered(index: usize) -> String {
    format!("prompt {index}")
}

fn weigher<'a>(judge: &'a Colorimeter, journal: Option<&'a Journal>, strength: Strength) -> Weigher<'a> {
    Weigher {
        judge,
        journal,
        batch: 7,
        threads: 3,
        strength,
        progress: &|_| {},
    }
}

const RUBRIC: &str = "Colour\n- Red.\n- Green.\n\nSound\n- Loud.\n\nLight\n- Dark.\n";

fn rubric() -> RubricSet {
    RubricSet::from_text(RUBRIC).unwrap()
}

#[test]
fn weights_follow_what_people_preferred_and_what_adds_nothing_is_dropped_and_named() {
    let judge = Colorimeter::default();
    let data = labelled(60, numbered);
    let weighed = weigher(&judge, None, Strength::CrossValidated(5))
        .weigh(&data, &rubric(), "pairs")
        .unwrap();
    let set = &weighed.rubric;
    let criteria: Vec<(&str, f64)> = set.themes.iter().flat_map(Theme::weighted).collect();
    let [("Red.", red), ("Green.", green)] = criteria[..] else {
        panic!("{criteria:?}")
    };
    assert!(red > 1.1 * green && green > 0.1, "{red} {green}");
    assert!(criteria.iter().all(|(_, weight)| *weight == rounded(*weight)));
    let weighing = set.provenance.as_ref().unwrap().weighing.as_ref().unwrap();
    let dropped: Vec<(&str, WhyDropped)> = weighing
        .dropped
        .iter()
        .map(|dropped| (dropped.criterion.as_str(), dropped.why))
        .collect();
    assert_eq!(
        dropped,
        [("Loud.", WhyDropped::NeverTurnedOn), ("Dark.", WhyDropped::NoWeight)]
    );
    assert_eq!((weighing.pairs, weighing.failed, weighing.folds), (60, 0, Some(5)));
    assert_eq!(weighing.rubric_sha256, rubric().digest());
    let left_out = weighing.left_out_accuracy.unwrap();
    assert!((0.8..0.95).contains(&left_out), "{left_out}");
    assert!(weighing.log_loss < weighing.left_out_log_loss.unwrap());
    assert_eq!(weighed.asked, 240);
    // It is a rubric file like any other.
    let file = RubricFile::of_set(set.clone());
    let again = RubricFile::from_toml(&file.to_toml().unwrap(), Path::new("out.toml")).unwrap();
    assert_eq!(again, file);
    assert_eq!(again.rubrics(Path::new("out.toml")).unwrap().general(), set);
}

#[test]
fn a_weighing_that_was_killed_asks_nothing_twice_and_comes_out_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Journal::open(&folder.path().join("journal"), "now").unwrap();
    let data = labelled(30, numbered);
    let strength = Strength::CrossValidated(4);
    let undisturbed = weigher(&Colorimeter::default(), None, strength)
        .weigh(&data, &rubric(), "pairs")
        .unwrap();
    let mut asked = Vec::new();
    for dies_after in [Some(40), Some(30), None] {
        let judge = Colorimeter {
            dies_after,
            ..Colorimeter::default()
        };
        let journal = open();
        let weighed = weigher(&judge, Some(&journal), strength).weigh(&data, &rubric(), "pairs");
        asked.extend(judge.asked.into_inner().unwrap());
        match weighed {
            Ok(weighed) => assert_eq!(weighed.rubric, undisturbed.rubric),
            Err(error) => assert!(matches!(error, WeighError::Ask(AskError::Unavailable { .. }))),
        }
    }
    let different: BTreeSet<_> = asked.iter().collect();
    assert_eq!((asked.len(), different.len()), (120, 120));
    // Weights that are there already change nothing.
    let text = undisturbed.rubric.without_weights().text();
    let weighted = RubricSet::from_text(&text.replace("- ", "- [weight 7] ")).unwrap();
    let judge = Colorimeter::default();
    let again = weigher(&judge, Some(&open()), strength)
        .weigh(&data, &weighted, "pairs")
        .unwrap();
    assert_eq!((again.asked, again.found), (0, 60));
    assert_eq!(again.rubric.themes, undisturbed.rubric.themes);
}

#[test]
fn pairs_that_cannot_be_judged_are_left_aside_and_counted() {
    let data = labelled(40, |index| match index % 8 {
        0 => "torn".to_owned(),
        _ => numbered(index),
    });
    let judge = Colorimeter::default();
    let weighed = weigher(&judge, None, Strength::Given(0.01))
        .weigh(&data, &rubric(), "pairs")
        .unwrap();
    let weighing = weighed.rubric.provenance.unwrap().weighing.unwrap();
    assert_eq!((weighing.pairs, weighing.failed), (35, 5));
    assert_eq!(
        (weighing.lambda, weighing.folds, weighing.left_out_accuracy),
        (0.01, None, None)
    );
}

#[test]
fn what_weights_cannot_be_learnt_from_is_told_with_a_remedy() {
    let refused = |data: &LabelledSet, words: &str, strength| {
        let rubric = RubricSet::from_text(words).unwrap();
        let error = weigher(&Colorimeter::default(), None, strength)
            .weigh(data, &rubric, "pairs")
            .unwrap_err();
        assert!(error.hint().is_some());
        error.to_string()
    };
    let folds = Strength::CrossValidated(5);
    let data = labelled(12, numbered);
    assert_eq!(
        refused(&data, "Dark.", folds),
        "no criterion leans to the pictures that people preferred"
    );
    assert_eq!(
        refused(&data, "Red.", Strength::Given(100.0)),
        "at lambda 100 no criterion has a weight above 0"
    );
    assert_eq!(
        refused(&labelled(12, |_| "one".into()), "Red.", folds),
        "all pairs are of one prompt, and lambda is tried on prompts that are left out"
    );
    assert_eq!(
        refused(&labelled(3, |_| "torn".into()), "Red.", folds),
        "none of 3 pairs could be judged under every criterion"
    );
    let mut scored = labelled(1, numbered);
    scored.labelling = Labelling::Scored;
    assert_eq!(
        refused(&scored, "Red.", folds),
        "weights are learnt from ranked pictures, these have scores"
    );
}
