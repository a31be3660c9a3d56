use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::work::{Usage, VerdictRecord};
use image::{Rgb, RgbImage};

use super::*;
use crate::data::{Example, Label, Labelling, Place, Task as Kind};
use crate::generate::{HashedNgrams, Language};
use crate::{AskError, ChatReply, ChatRequest, JudgedPair, Message, Part};

/// Writes what its rule says to the words that it is asked.
struct Scribe<'a> {
    answer: &'a (dyn Fn(&str) -> String + Sync),
    asked: Mutex<Vec<String>>,
}

impl Chat for Scribe<'_> {
    fn name(&self) -> &str {
        "scribe"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"scribe")
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let words = words(request.messages);
        self.asked.lock().unwrap().push(words.clone());
        Ok(ChatReply {
            text: (self.answer)(&words),
            complete: true,
            usage: Usage::default(),
        })
    }
}

/// Prefers the first picture under criteria that say "first", the second under all others.
#[derive(Default)]
struct Literal(AtomicUsize);

impl Judge for Literal {
    fn name(&self) -> &str {
        "literal"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"literal")
    }

    fn judge(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<VerdictRecord>, AskError> {
        self.0.fetch_add(pairs.len(), Ordering::SeqCst);
        let verdict = |pair: &JudgedPair<'_>| {
            let side = match pair.rubric.text().contains("first") {
                true => Side::First,
                false => Side::Second,
            };
            VerdictRecord {
                verdict: Verdict::Preferred { side },
                ..VerdictRecord::failed(pair.prompt_index, String::new(), pair.rubric.digest())
            }
        };
        Ok(pairs.iter().map(verdict).collect())
    }
}

fn words(messages: &[Message]) -> String {
    let parts = messages.iter().flat_map(|message| &message.content);
    parts
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Image(index) => format!("<{index}>"),
        })
        .collect()
}

fn picture(shade: u8) -> Picture {
    let mut encoded = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(2, 2, Rgb([shade; 3]));
    image.write_to(&mut encoded, image::ImageFormat::Png).unwrap();
    let encoded = encoded.into_inner();
    Picture {
        digest: Digest::of(&encoded),
        encoded,
    }
}

/// Examples whose first picture is the better one.
fn examples(prompts: &[&str], source: Option<&Picture>) -> LabelledSet {
    let example = |(index, prompt): (usize, &&str)| Example {
        place: Place { index, line: None },
        prompt: (*prompt).to_owned(),
        source: source.cloned(),
        responses: vec![picture(index as u8), picture(200)],
        label: Label::Rank(vec![1, 2]),
    };
    LabelledSet {
        examples: prompts.iter().enumerate().map(example).collect(),
        task: if source.is_some() {
            Kind::Editing
        } else {
            Kind::TextToImage
        },
        labelling: Labelling::Ranked,
    }
}

struct Written {
    sets: Vec<WrittenSet>,
    asked: Vec<String>,
    judged: usize,
}

fn write(
    answer: &(dyn Fn(&str) -> String + Sync),
    prompts: &[WantedSet<'_>],
    examples: Option<&LabelledSet>,
    (nearest, threads): (usize, usize),
    journal: Option<&Journal>,
) -> Written {
    let scribe = Scribe {
        answer,
        asked: Mutex::default(),
    };
    let judge = Literal::default();
    let writer = PromptSetWriter {
        chat: &scribe,
        judge: &judge,
        template: &WriteTemplate::built_in(Language::English).unwrap(),
        journal,
        threads,
        settings: WriteSettings {
            criteria: 2,
            nearest,
            max_tokens: 64,
            attempts: 2,
            temperature: 0.0,
            seed: 0,
            combine: Combine::Specific,
        },
        progress: &|_| {},
    };
    let general = RubricSet::from_text("Prefer the first.").unwrap();
    Written {
        sets: writer.write(prompts, examples.map(by_spelling), &general).unwrap().sets,
        asked: scribe.asked.into_inner().unwrap(),
        judged: judge.0.into_inner(),
    }
}

fn by_spelling(labelled: &LabelledSet) -> Examples<'_> {
    Examples {
        labelled,
        embed: &HashedNgrams,
    }
}

fn wanted(prompt: &str) -> WantedSet<'_> {
    WantedSet { prompt, source: None }
}

fn set(written: &WrittenSet) -> &PromptSet {
    match &written.outcome {
        WriteOutcome::Written(set) => set,
        other => panic!("{other:?}"),
    }
}

const PROMPTS: [&str; 3] = ["a red cube", "a blue ball", "two cats"];

#[test]
fn sets_are_written_from_prompts_alone_the_same_on_any_threads_and_nothing_is_asked_twice() {
    let answer = |words: &str| {
        let prompt = PROMPTS.iter().find(|prompt| words.contains(*prompt)).unwrap();
        format!("{{\"criteria\": [\"There is {prompt}.\", \"- There is {prompt}.\", \"One too many.\"]}}")
    };
    let prompts = PROMPTS.map(wanted);
    let folder = tempfile::tempdir().unwrap();
    let open = || Journal::open(&folder.path().join("journal"), "now").unwrap();
    let first = write(&answer, &prompts, None, (0, 1), Some(&open()));
    assert_eq!(set(&first.sets[1]).tips, ["There is a blue ball."]);
    assert_eq!(
        set(&first.sets[1]).note.as_deref(),
        Some("by scribe, from the prompt alone")
    );
    assert_eq!((first.asked.len(), first.judged), (3, 0));
    let again = write(&answer, &prompts, None, (0, 3), Some(&open()));
    assert_eq!((again.sets == first.sets, again.asked.len()), (true, 0));
}

#[test]
fn the_nearest_examples_of_other_prompts_are_shown_and_the_prompts_own_pairs_verify() {
    let examples = examples(&["a red ball", "a red cube", "dogs in a yard", "a red cone"], None);
    let prompts = [wanted("a red cube"), wanted("many dogs")];
    let says_first = |_: &str| "{\"criteria\": [\"Prefer the first.\"]}".to_owned();
    let written = write(&says_first, &prompts, Some(&examples), (1, 1), None);
    // The cube's own pair is not what its set is written from: it says how good the set is.
    assert!(written.asked[0].contains("a red ball") || written.asked[0].contains("a red cone"));
    assert!(written.asked[1].contains("dogs in a yard"), "{}", written.asked[1]);
    assert!(written.asked[1].contains("<0>") && written.asked[1].contains("picture 1 better"));
    let verified = Verified {
        pairs: 1,
        by_own: 1,
        by_general: 1,
    };
    assert_eq!(written.sets[0].verified, Some(verified));
    assert_eq!((written.sets[1].verified, written.judged), (None, 2));
    let note = set(&written.sets[0]).note.as_deref().unwrap();
    assert!(
        note.ends_with("from 1 labelled example; right on 1 of 1 labelled pairs, the general set on 1"),
        "{note}"
    );

    let says_second = |_: &str| "{\"criteria\": [\"Prefer the other.\"]}".to_owned();
    let written = write(&says_second, &prompts, Some(&examples), (1, 1), None);
    assert_eq!(written.sets[0].outcome, WriteOutcome::Worse);
    assert_eq!(set(&written.sets[1]).tips, ["Prefer the other."]);
}

#[test]
fn an_edits_set_is_for_its_picture_and_has_themes_and_an_answer_without_criteria_gives_none() {
    let cube = picture(9);
    let edit = WantedSet {
        prompt: "make it blue",
        source: Some(&cube),
    };
    let answer = |words: &str| {
        match words.contains("make it blue") {
        true => {
            assert!(words.contains("The picture to be edited:\n<0>"), "{words}");
            "{\"themes\": [{\"theme\": \"Fulfilment\", \"tips\": [\"It is blue.\"]}, {\"theme\": \"Blend\", \"tips\": [\"It is blue.\", \"No seams.\"]}]}"
        }
        false => "I cannot say.",
    }
    .to_owned()
    };
    let written = write(&answer, &[edit, wanted("a dog")], None, (0, 1), None);
    let set = set(&written.sets[0]);
    assert_eq!(
        (set.prompt.as_str(), set.sources.as_slice()),
        ("make it blue", [cube.digest].as_slice())
    );
    let themes: Vec<_> = set
        .themes
        .iter()
        .map(|theme| (theme.name.as_deref(), theme.tips.as_slice()))
        .collect();
    assert_eq!(
        themes,
        [
            (Some("Fulfilment"), ["It is blue.".to_owned()].as_slice()),
            (Some("Blend"), ["No seams.".to_owned()].as_slice())
        ]
    );
    assert_eq!(written.sets[1].outcome, WriteOutcome::Unreadable);
    assert_eq!(written.asked.len(), 3, "an unreadable answer is asked for once more");
}

#[test]
fn the_key_of_a_set_holds_all_that_it_depends_on() {
    let scribe = Scribe {
        answer: &|_| String::new(),
        asked: Mutex::default(),
    };
    let template = WriteTemplate::built_in(Language::English).unwrap();
    let other_template = WriteTemplate::built_in(Language::Chinese).unwrap();
    let judge = Literal::default();
    let settings = WriteSettings {
        criteria: 2,
        nearest: 1,
        max_tokens: 64,
        attempts: 2,
        temperature: 0.0,
        seed: 0,
        combine: Combine::Specific,
    };
    let near = examples(&["a red ball", "a red cone"], None);
    let own = examples(&["a red cube", "a red cube"], None);
    let (near, own) = (near.pairs(), own.pairs());
    let turned = RankedPair {
        preferred: Side::Second,
        ..own[0]
    };
    let (first, second) = (
        RubricSet::from_text("Sharp.").unwrap(),
        RubricSet::from_text("Bright.").unwrap(),
    );
    let cube = picture(9);
    let edit = WantedSet {
        prompt: "a red cube",
        source: Some(&cube),
    };
    let key = |template: &WriteTemplate,
               settings: &WriteSettings,
               wanted,
               shown: &[RankedPair<'_>],
               own: &[RankedPair<'_>],
               general| {
        let writer = PromptSetWriter {
            chat: &scribe,
            judge: &judge,
            template,
            journal: None,
            threads: 1,
            settings: settings.clone(),
            progress: &|_| {},
        };
        writer.key(&wanted, Evidence { shown, own }, general).unwrap()
    };
    let prompt = wanted("a red cube");
    let more = |change: fn(&mut WriteSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        key(&template, &settings, prompt, &near[..1], &own[..1], &first)
    };
    let keys = [
        more(|_| {}),
        more(|settings| settings.criteria = 3),
        more(|settings| settings.max_tokens = 65),
        more(|settings| settings.attempts = 3),
        more(|settings| settings.temperature = 0.5),
        more(|settings| settings.seed = 1),
        more(|settings| settings.combine = Combine::SpecificThenGeneral),
        key(&other_template, &settings, prompt, &near[..1], &own[..1], &first),
        key(
            &template,
            &settings,
            wanted("a blue ball"),
            &near[..1],
            &own[..1],
            &first,
        ),
        key(&template, &settings, edit, &near[..1], &own[..1], &first),
        key(&template, &settings, prompt, &near[1..], &own[..1], &first),
        key(&template, &settings, prompt, &near, &own[..1], &first),
        key(&template, &settings, prompt, &[], &own[..1], &first),
        key(&template, &settings, prompt, &near[..1], &own, &first),
        key(&template, &settings, prompt, &near[..1], &own[1..], &first),
        key(&template, &settings, prompt, &near[..1], &[turned], &first),
        key(&template, &settings, prompt, &near[..1], &[], &first),
        key(&template, &settings, prompt, &near[..1], &own[..1], &second),
    ];
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:#?}");
    assert_eq!(keys[0], more(|_| {}));
    assert!(scribe.asked.lock().unwrap().is_empty());
}

#[test]
fn a_criterion_that_runs_on_or_holds_debris_is_left_out() {
    let long = "cleanno ".repeat(40);
    let text = json!({"criteria": ["The object is red.", "The image is clean]}]} black", long]}).to_string();
    let tips = |text: &str| {
        read(text, 3)
            .into_iter()
            .flat_map(|theme| theme.tips)
            .collect::<Vec<_>>()
    };
    assert_eq!(tips(&text), ["The object is red."]);
    assert!(read(r#"{"criteria": ["all [debris]"]}"#, 3).is_empty());
}
