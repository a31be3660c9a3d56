//! Questions by a scripted writer.

use std::collections::VecDeque;
use std::sync::Mutex;

use gavel_core::work::Usage;
use serde_json::json;

use super::*;
use crate::data::ReadOptions;
use crate::{ChatReply, ChatRequest, Journal, Part};

/// Gives these answers one after the other, and notes what it was asked, with the temperature and the number of pictures.
struct Scripted {
    answers: Mutex<VecDeque<Result<String, AskError>>>,
    asked: Mutex<Vec<(String, f64, usize)>>,
}

impl Scripted {
    fn of(answers: impl IntoIterator<Item = String>) -> Self {
        Self {
            answers: Mutex::new(answers.into_iter().map(Ok).collect()),
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> Vec<(String, f64, usize)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Chat for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn identity(&self) -> Digest {
        Digest::of(b"scripted")
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let last = request.messages.last().unwrap().content.iter();
        let words: String = last
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Image(_) => "<picture>",
            })
            .collect();
        self.asked
            .lock()
            .unwrap()
            .push((words, request.temperature, request.images.len()));
        let text = self.answers.lock().unwrap().pop_front().unwrap()?;
        Ok(ChatReply {
            text,
            complete: true,
            usage: Usage::default(),
        })
    }
}

fn written(chat: &Scripted, journal: Option<&Journal>, prompts: &[WantedQuestions<'_>]) -> Vec<WrittenQuestions> {
    let writer = PictureQuestionWriter {
        chat,
        recorded: &Recorded::new(journal),
        threads: 1,
        progress: &|| {},
    };
    writer.write(prompts).unwrap()
}

fn prompt(words: &str) -> WantedQuestions<'_> {
    WantedQuestions { words, sources: &[] }
}

fn answer(questions: &[(&str, &str, &[usize])]) -> String {
    let question = |(index, (question, kind, needs)): (usize, &(&str, &str, &[usize]))| json!({"number": index + 1, "question": question, "kind": kind, "needs": needs});
    let questions: Vec<_> = questions.iter().enumerate().map(question).collect();
    json!({ "questions": questions }).to_string()
}

fn questions(outcome: &WrittenQuestions) -> Vec<&str> {
    match outcome {
        WrittenQuestions::Written(questions) => questions.iter().map(|one| one.question.as_str()).collect(),
        WrittenQuestions::Unwritten { reason } => panic!("{reason}"),
    }
}

#[test]
fn an_answer_with_a_fault_is_asked_for_again_in_words_and_the_best_is_taken() {
    let chat = Scripted::of([
        answer(&[
            ("Is there a cup?", "entity", &[]),
            ("It is red.", "attribute", &[1]),
            ("Red.", "attribute", &[]),
        ]),
        answer(&[
            ("Is there a cup?", "entity", &[]),
            ("Is the cup red?", "attribute", &[7]),
        ]),
        "no".to_owned(),
    ]);
    let found = written(&chat, None, &[prompt("a red cup")]);
    assert_eq!(questions(&found[0]), ["Is there a cup?", "Is the cup red?"]);
    let asked = chat.asked();
    assert_eq!(
        asked.iter().map(|(_, temperature, _)| *temperature).collect::<Vec<_>>(),
        [0.0, 0.7, 0.7]
    );
    assert_eq!(asked[0].0, "The description:\na red cup");
    assert!(
        asked[1]
            .0
            .contains("2 questions are without a question mark at the end. Write a better one."),
        "{}",
        asked[1].0
    );
    let once = Scripted::of([answer(&[("Is there a cup?", "entity", &[])])]);
    assert_eq!(
        questions(&written(&once, None, &[prompt("a cup")])[0]),
        ["Is there a cup?"]
    );
}

#[test]
fn a_prompt_without_a_question_is_refused_in_words_and_keeps_no_other_from_its_own() {
    let mut answers: Vec<String> = vec!["no".to_owned(); ATTEMPTS];
    answers.push(answer(&[("Is there a cup?", "entity", &[])]));
    let chat = Scripted::of(answers);
    let silent = AskError::Unanswerable {
        reason: "the prompt is too long".to_owned(),
        hint: None,
        said: None,
    };
    chat.answers.lock().unwrap().push_back(Err(silent));
    let found = written(
        &chat,
        None,
        &[prompt("hm"), prompt("a cup"), prompt("long"), prompt("a cup")],
    );
    let unwritten = |reason: &str| WrittenQuestions::Unwritten {
        reason: reason.to_owned(),
    };
    assert_eq!(found[0], unwritten("there is no JSON with a list `questions`"));
    assert_eq!(found[2], unwritten("the prompt is too long"));
    assert_eq!((questions(&found[1]), &found[3]), (vec!["Is there a cup?"], &found[1]));
    assert_eq!(chat.asked().len(), ATTEMPTS + 2, "the same prompt is asked about once");
}

#[test]
fn an_edit_is_taken_apart_beside_its_source_and_nothing_is_written_twice() {
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::new(8, 8);
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let source = Picture::checked(png.into_inner(), &ReadOptions::local()).unwrap();
    let edit = WantedQuestions {
        words: "remove the ball",
        sources: std::slice::from_ref(&source),
    };
    let folder = tempfile::tempdir().unwrap();
    let open = || Journal::open(&folder.path().join("answers.jsonl"), "now").unwrap();
    let chat = Scripted::of([
        "no".to_owned(),
        answer(&[
            ("Is the ball gone?", "fulfilment", &[]),
            ("Is the dog as before?", "preservation", &[]),
        ]),
    ]);
    let first = written(&chat, Some(&open()), &[edit]);
    let WrittenQuestions::Written(of_edit) = &first[0] else {
        panic!("{first:?}")
    };
    assert_eq!((of_edit.len(), &of_edit[1].needs), (2, &vec![0]));
    let (words, _, pictures) = &chat.asked()[0];
    assert_eq!(*pictures, 1);
    assert_eq!(
        words,
        "The picture to be edited:\n<picture>\nThe instruction:\nremove the ball"
    );
    let silent = Scripted::of([]);
    assert_eq!(written(&silent, Some(&open()), &[edit]), first);
    assert!(silent.asked().is_empty(), "also what was of no use is kept");
}
