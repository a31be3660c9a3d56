//! The words in which a model is asked to take a prompt apart, and the form of its answer.

use serde_json::{Value, json};

use super::{FULFILMENT, KINDS, KINDS_OF_EDITS, PRESERVATION, QUESTIONS_MOST, WantedQuestions};
use crate::{Message, Part};

/// What is asked for, of the description of a picture.
const RULES: &str = "You take the description of a picture apart into questions that are answered by yes or no. Somebody looks at one \
picture and answers them; a picture that shows all that the description says is answered by yes throughout.
- One question is about one thing: whether an object, animal or person is there (kind entity), what it is like or does, its colour, material, \
size, or the words that are to be read on it (attribute), how many there are (count), how two things stand to each other (relation), \
background, light, style or the picture as a whole (global), or anything else that can be seen (other).
- Ask about all that the description says, and about nothing that it does not say. Leave out what no picture can show.
- Ask whether a thing is there before you ask about it. Number the questions from 1 on, and name in \"needs\" the numbers of those earlier \
questions without whose yes a question makes no sense.
- A question can be understood by itself, is one short sentence and ends with a question mark. No question is asked twice.
- Write at most {most} questions. Where the description says more, ask about what matters most.
Answer with JSON only: {\"questions\": [{\"number\": 1, \"question\": \"...\", \"kind\": \"entity\", \"needs\": []}]}";

/// The same, of the instruction of an edit.
const RULES_OF_EDITS: &str = "You take the instruction for an edit of a picture apart into questions that are answered by yes or no. \
Somebody looks at the picture before the edit and after it and answers them; an edit that does all that the instruction asks for, and leaves \
everything else as it was, is answered by yes throughout.
- First ask whether each change that the instruction asks for is there, in the place and in the way that it says (kind fulfilment). Then ask \
of the most important things in the picture that the instruction does not speak of whether each is as it was before the edit (kind \
preservation). Anything else has the kind other.
- One question is about one thing that can be seen. Ask for no change that the instruction does not ask for.
- Number the questions from 1 on, and name in \"needs\" the numbers of those earlier questions without whose yes a question makes no sense: \
what was kept counts only where the first change is there.
- A question can be understood by itself, is one short sentence and ends with a question mark. No question is asked twice.
- Write at most {most} questions, at least one of them about the change.
Answer with JSON only: {\"questions\": [{\"number\": 1, \"question\": \"...\", \"kind\": \"fulfilment\", \"needs\": []}]}";

/// A description, and its questions: kind, words, and the numbers that it needs.
const EXAMPLE: (&str, &[Line]) = (
    "Three paper boats float on a dark pond, the one in the middle is yellow. Watercolour.",
    &[
        ("entity", "Are there boats made of paper?", &[]),
        ("entity", "Is there a pond?", &[]),
        ("count", "Are there exactly three boats?", &[1]),
        ("relation", "Are the boats floating on the pond?", &[1, 2]),
        ("attribute", "Is the water of the pond dark?", &[2]),
        ("attribute", "Is the boat in the middle yellow?", &[1]),
        ("global", "Does the picture look like a watercolour?", &[]),
    ],
);

/// What the picture of the worked example shows, in words.
const EXAMPLE_PICTURE: &str =
    "A room: a wooden chair by the window, a cat asleep on a striped rug, a round lamp on the wall.";

/// The instruction of an edit, and its questions.
const EXAMPLE_OF_EDITS: (&str, &[Line]) = (
    "Turn the wooden chair into a red armchair.",
    &[
        (FULFILMENT, "Is there an armchair by the window?", &[]),
        (FULFILMENT, "Is the armchair red?", &[1]),
        (FULFILMENT, "Is the wooden chair gone?", &[1]),
        (
            PRESERVATION,
            "Is the cat asleep on the striped rug as before the edit?",
            &[1],
        ),
        (PRESERVATION, "Is the round lamp on the wall as before the edit?", &[1]),
        (PRESERVATION, "Are window and walls as before the edit?", &[1]),
    ],
);

type Line = (&'static str, &'static str, &'static [usize]);

/// The conversation that asks for a prompt's questions, `problem` being what was wrong with the last answer; `Part::Image(k)` is its source k.
pub(super) fn messages(wanted: &WantedQuestions<'_>, problem: &str) -> Vec<Message> {
    let is_edit = wanted.is_edit();
    let (rules, (example, lines)) = match is_edit {
        true => (RULES_OF_EDITS, EXAMPLE_OF_EDITS),
        false => (RULES, EXAMPLE),
    };
    let turn = |role: &str, content: Vec<Part>| Message {
        role: role.to_owned(),
        content,
    };
    let said = |text: String| vec![Part::Text(text)];
    let shown = match is_edit {
        true => format!("The picture to be edited, in words:\n{EXAMPLE_PICTURE}\n\nThe instruction:\n{example}"),
        false => format!("The description:\n{example}"),
    };
    let rules = rules.replace("{most}", &QUESTIONS_MOST.to_string());
    vec![
        turn("system", said(rules)),
        turn("user", said(shown)),
        turn("assistant", said(answer(lines).to_string())),
        turn("user", asked(wanted, problem)),
    ]
}

fn asked(wanted: &WantedQuestions<'_>, problem: &str) -> Vec<Part> {
    let mut content = Vec::with_capacity(wanted.sources.len() + 2);
    let mut words = "The description:\n".to_owned();
    if wanted.is_edit() {
        content.push(Part::Text("The picture to be edited:\n".to_owned()));
        content.extend((0..wanted.sources.len()).map(Part::Image));
        words = "\nThe instruction:\n".to_owned();
    }
    words += wanted.words;
    if !problem.is_empty() {
        words += &format!("\n\nAn answer of before was not what was asked for: {problem}. Write a better one.");
    }
    content.push(Part::Text(words));
    content
}

fn answer(lines: &[Line]) -> Value {
    let question = |(index, (kind, question, needs)): (usize, &Line)| json!({"number": index + 1, "question": question, "kind": kind, "needs": needs});
    let questions: Vec<Value> = lines.iter().enumerate().map(question).collect();
    json!({ "questions": questions })
}

/// The JSON Schema of an answer.
pub(super) fn schema(is_edit: bool) -> Value {
    let kinds = if is_edit { KINDS_OF_EDITS } else { KINDS };
    let number = json!({"type": "integer", "minimum": 1, "maximum": QUESTIONS_MOST});
    json!({
        "type": "object",
        "properties": {
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "number": number,
                        "question": {"type": "string"},
                        "kind": {"type": "string", "enum": kinds},
                        "needs": {"type": "array", "items": number, "maxItems": QUESTIONS_MOST - 1},
                    },
                    "required": ["number", "question", "kind", "needs"],
                    "additionalProperties": false,
                },
                "minItems": 1,
                "maxItems": QUESTIONS_MOST,
            },
        },
        "required": ["questions"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::draft::Draft;
    use super::*;

    #[test]
    fn the_worked_examples_are_answers_without_a_fault() {
        for ((_, lines), is_edit) in [(EXAMPLE, false), (EXAMPLE_OF_EDITS, true)] {
            let draft = Draft::read(&answer(lines).to_string(), true, is_edit);
            assert_eq!((draft.faults(), draft.problem()), (0, String::new()));
            let written = draft.questions.iter().map(|one| one.question.as_str());
            assert!(written.eq(lines.iter().map(|(_, question, _)| *question)));
            for (question, (kind, _, needs)) in draft.questions.iter().zip(lines) {
                assert_eq!(question.kind.as_deref(), Some(*kind));
                assert!(question.needs.iter().map(|needed| needed + 1).eq(needs.iter().copied()));
            }
        }
    }
}
