//! An answer with questions, read tolerantly and put right.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{FULFILMENT, KINDS, KINDS_OF_EDITS, OTHER, QUESTIONS_MOST};
use crate::data::questions::PictureQuestion;
use crate::generate::answer::{json_in, line};
use crate::generate::structure::key;

/// Most letters of a question: a sentence or two.
const LETTERS_MOST: usize = 300;
/// What a question ends with, in the scripts that models write.
const MARKS: [char; 3] = ['?', '？', '؟'];

/// What of an answer can be asked, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) questions: Vec<PictureQuestion>,
    faults: BTreeMap<Fault, usize>,
}

/// What is wrong with an answer, or with one of its questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    CutOff,
    Unreadable,
    Empty,
    NoQuestion,
    Long,
    Doubled,
    Number,
    Need,
    Surplus,
    NoChange,
}

impl Fault {
    fn what(self) -> &'static str {
        match self {
            Self::CutOff => "the answer is cut off",
            Self::Unreadable => "there is no JSON with a list `questions`",
            Self::Empty => "without words",
            Self::NoQuestion => "without a question mark at the end",
            Self::Long => "too long",
            Self::Doubled => "asked twice",
            Self::Number => "with the number of another one",
            Self::Need => "needing one that does not stand before it",
            Self::Surplus => "too many",
            Self::NoChange => "no question is about the change",
        }
    }

    /// Whether it is of the whole answer, and not of single questions.
    fn is_whole(self) -> bool {
        matches!(self, Self::CutOff | Self::Unreadable | Self::NoChange)
    }
}

/// A question as a model wrote it.
struct Raw {
    number: u64,
    text: Option<String>,
    kind: String,
    needs: Vec<Option<u64>>,
}

impl Raw {
    /// Of an object, or of a text alone; its number is its position where it says none.
    fn of(position: usize, value: &Value, kinds: &[&str]) -> Self {
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        let kind = field("kind").filter(|kind| kinds.contains(kind)).unwrap_or(OTHER);
        let needs = value.get("needs").and_then(Value::as_array);
        Self {
            number: value
                .get("number")
                .and_then(Value::as_u64)
                .unwrap_or(position as u64 + 1),
            text: value.as_str().or_else(|| field("question")).and_then(line),
            kind: kind.to_owned(),
            needs: needs.into_iter().flatten().map(Value::as_u64).collect(),
        }
    }

    fn words(&self) -> Result<String, Fault> {
        let text = self.text.clone().ok_or(Fault::Empty)?;
        if text.chars().count() > LETTERS_MOST {
            return Err(Fault::Long);
        }
        match text.ends_with(MARKS) {
            true => Ok(text),
            false => Err(Fault::NoQuestion),
        }
    }
}

impl Draft {
    /// The questions of an answer that can be asked, and what was wrong with the others. Of an edit those about the change come first, and the
    /// first of them is needed by all about what was kept: leaving the picture alone is worth nothing.
    pub(super) fn read(text: &str, is_complete: bool, is_edit: bool) -> Self {
        let value = json_in(text).unwrap_or_default();
        let Some(listed) = value.get("questions").unwrap_or(&value).as_array() else {
            return Self::faulty(if is_complete { Fault::Unreadable } else { Fault::CutOff });
        };
        let kinds = if is_edit { KINDS_OF_EDITS } else { KINDS };
        let values = listed.iter().enumerate();
        let mut written: Vec<Raw> = values
            .map(|(position, value)| Raw::of(position, value, kinds))
            .collect();
        if is_edit {
            written.sort_by_key(|raw| raw.kind != FULFILMENT);
        }
        let mut draft = Self::default();
        let mut keys = BTreeSet::new();
        let mut positions: BTreeMap<u64, usize> = BTreeMap::new();
        for raw in written {
            let position = draft.questions.len();
            let words = match raw.words() {
                Err(fault) => Err(fault),
                Ok(_) if position == QUESTIONS_MOST => Err(Fault::Surplus),
                Ok(words) if !keys.insert(key(&words)) => Err(Fault::Doubled),
                Ok(words) => Ok(words),
            };
            let question = match words {
                Ok(question) => question,
                Err(fault) => {
                    draft.note(fault);
                    continue;
                }
            };
            let mut needs = BTreeSet::new();
            if is_edit && position > 0 && raw.kind != FULFILMENT {
                needs.insert(0);
            }
            for needed in &raw.needs {
                match needed.and_then(|needed| positions.get(&needed)) {
                    Some(earlier) => {
                        needs.insert(*earlier);
                    }
                    None => draft.note(Fault::Need),
                }
            }
            if positions.contains_key(&raw.number) {
                draft.note(Fault::Number);
            }
            positions.entry(raw.number).or_insert(position);
            draft.questions.push(PictureQuestion {
                question,
                kind: Some(raw.kind),
                needs: needs.into_iter().collect(),
            });
        }
        let asks_for_change = |one: &PictureQuestion| one.kind.as_deref() == Some(FULFILMENT);
        if is_edit && !draft.questions.first().is_some_and(asks_for_change) {
            draft.note(Fault::NoChange);
            draft.questions.clear();
        }
        if draft.questions.is_empty() && draft.faults.is_empty() {
            draft.note(Fault::Unreadable);
        }
        draft
    }

    fn faulty(fault: Fault) -> Self {
        let mut draft = Self::default();
        draft.note(fault);
        draft
    }

    fn note(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// How much was wrong.
    pub(super) fn faults(&self) -> usize {
        self.faults.values().sum()
    }

    /// What was wrong, in words.
    pub(super) fn problem(&self) -> String {
        let told = self
            .faults
            .iter()
            .map(|(fault, count)| match (fault.is_whole(), count) {
                (true, _) => fault.what().to_owned(),
                (false, 1) => format!("1 question is {}", fault.what()),
                (false, count) => format!("{count} questions are {}", fault.what()),
            });
        told.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn asked(draft: &Draft) -> Vec<(&str, &str, &[usize])> {
        draft
            .questions
            .iter()
            .map(|one| {
                (
                    one.question.as_str(),
                    one.kind.as_deref().unwrap(),
                    one.needs.as_slice(),
                )
            })
            .collect()
    }

    #[test]
    fn what_cannot_be_asked_is_left_out_and_told_in_words() {
        let written = json!({"questions": [
            {"number": 1, "question": "Is there a cup?", "kind": "entity", "needs": []},
            {"number": 2, "question": "The cup is red.", "kind": "attribute", "needs": [1]},
            {"number": 3, "question": "is  there a CUP?", "kind": "entity", "needs": []},
            {"number": 4, "question": " ", "kind": "entity", "needs": []},
            {"number": 5, "question": "Is the cup on a tray?", "kind": "place", "needs": [1, 6, 2]},
            {"number": 6, "question": format!("Is it {}?", "x".repeat(300)), "kind": "entity", "needs": []},
        ]});
        let draft = Draft::read(&written.to_string(), true, false);
        let expected: [(&str, &str, &[usize]); 2] = [
            ("Is there a cup?", "entity", &[]),
            ("Is the cup on a tray?", "other", &[0]),
        ];
        assert_eq!(asked(&draft), expected);
        assert_eq!(
            draft.problem(),
            "1 question is without words, 1 question is without a question mark at the end, 1 question is too long, \
             1 question is asked twice, 2 questions are needing one that does not stand before it"
        );
        assert_eq!(draft.faults(), 6);
    }

    #[test]
    fn numbers_may_begin_anywhere_and_be_left_out() {
        let written = r#"Here: ["Is there a cup?", {"question": "2. Is it red?", "needs": [1]}, {"number": 9, "question": "杯子在桌上吗？", "needs": [2]},]"#;
        let draft = Draft::read(written, true, false);
        let expected: [(&str, &str, &[usize]); 3] = [
            ("Is there a cup?", "other", &[]),
            ("Is it red?", "other", &[0]),
            ("杯子在桌上吗？", "other", &[1]),
        ];
        assert_eq!((asked(&draft), draft.faults()), (expected.to_vec(), 0));
    }

    #[test]
    fn what_an_edit_keeps_counts_only_where_its_change_is_there() {
        let written = json!({"questions": [
            {"number": 1, "question": "Is the dog as before?", "kind": "preservation", "needs": []},
            {"number": 2, "question": "Is the ball gone?", "kind": "fulfilment", "needs": []},
            {"number": 3, "question": "Is the tree as before?", "kind": "preservation", "needs": [2]},
        ]});
        let draft = Draft::read(&written.to_string(), true, true);
        let expected: [(&str, &str, &[usize]); 3] = [
            ("Is the ball gone?", "fulfilment", &[]),
            ("Is the dog as before?", "preservation", &[0]),
            ("Is the tree as before?", "preservation", &[0]),
        ];
        assert_eq!((asked(&draft), draft.faults()), (expected.to_vec(), 0));
        let kept = r#"{"questions": [{"question": "Is the dog as before?", "kind": "preservation"}]}"#;
        let draft = Draft::read(kept, true, true);
        assert!(draft.questions.is_empty());
        assert_eq!(draft.problem(), "no question is about the change");
    }

    #[test]
    fn more_than_are_asked_are_left_out_and_nothing_is_a_fault() {
        let many: Vec<String> = (0..QUESTIONS_MOST + 2)
            .map(|number| format!("Is there thing {number}?"))
            .collect();
        let draft = Draft::read(&json!({ "questions": many }).to_string(), true, false);
        assert_eq!(draft.questions.len(), QUESTIONS_MOST);
        assert_eq!(draft.problem(), "2 questions are too many");
        for (text, is_complete, problem) in [
            ("no", true, "there is no JSON with a list `questions`"),
            ("{\"questions\": []}", true, "there is no JSON with a list `questions`"),
            ("{\"questions\": [{\"question\": \"Is", false, "the answer is cut off"),
        ] {
            assert_eq!(Draft::read(text, is_complete, false).problem(), problem, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_need_stands_before_and_no_answer_makes_the_reader_panic(
            numbers in proptest::collection::vec((0..6_u64, proptest::collection::vec(0..8_u64, 0..4)), 0..6),
            is_edit in proptest::bool::ANY,
            text in "[\\[\\]{}\",\\\\a:é?]{0,30}",
        ) {
            let _ = Draft::read(&text, true, is_edit);
            let question = |(index, (number, needs)): (usize, &(u64, Vec<u64>))| {
                let kind = ["fulfilment", "preservation"][index % 2];
                json!({"number": number, "question": format!("Is it {index}?"), "kind": kind, "needs": needs})
            };
            let questions: Vec<Value> = numbers.iter().enumerate().map(question).collect();
            let draft = Draft::read(&json!({ "questions": questions }).to_string(), true, is_edit);
            prop_assert_eq!(draft.questions.len(), numbers.len());
            for (index, question) in draft.questions.iter().enumerate() {
                prop_assert!(question.needs.iter().all(|needed| *needed < index));
            }
        }
    }
}
