//! Questions about the picture of a prompt: those of the prompts' records, and tables of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::Expected;
use super::tasks::TaskRecord;
use super::{DataError, Place, RecordFault, file};

/// The field of a record that holds its questions.
const FIELD: &str = "questions";
/// Questions of one prompt.
const QUESTIONS_MOST: usize = 64;
/// Bytes of one question, and of its kind.
const BYTES_MOST: usize = 1024;

/// A question about one picture, which a good picture answers by yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureQuestion {
    /// What is asked.
    pub question: String,
    /// What kind of question it is, such as `relation`: figures are told by it too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// The questions, by their number in the list from 0 on, without whose yes a yes to this one does not count.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub needs: Vec<usize>,
}

impl PictureQuestion {
    /// A question of no kind, which needs no other.
    pub fn new(question: impl Into<String>) -> Self {
        Self {
            question: question.into(),
            kind: None,
            needs: Vec::new(),
        }
    }
}

/// The questions of a task's record: its field `questions`, a list of texts or of objects with `question`, `kind` and `needs`.
///
/// # Errors
/// What is wrong with the field, in words that follow its name.
pub fn of_record(task: &TaskRecord) -> Result<Vec<PictureQuestion>, String> {
    match task.fields.get(FIELD) {
        None => Ok(Vec::new()),
        Some(value) => of_field(value),
    }
}

fn of_field(value: &Value) -> Result<Vec<PictureQuestion>, String> {
    let Some(list) = value.as_array() else {
        return Err(format!("is {}, not a list of texts", kind(value)));
    };
    let questions = list.iter().map(of_value).collect::<Result<Vec<_>, String>>()?;
    check(&questions)?;
    for (index, question) in questions.iter().enumerate() {
        if let Some(later) = question.needs.iter().find(|needed| **needed >= index) {
            return Err(format!(
                "has a question, number {index}, that needs number {later}, which does not stand before it"
            ));
        }
    }
    Ok(questions)
}

fn of_value(value: &Value) -> Result<PictureQuestion, String> {
    let mut question = match value {
        Value::String(text) => PictureQuestion::new(text.as_str()),
        Value::Object(_) => serde_json::from_value(value.clone()).map_err(|error| {
            format!("holds an object that is not {{\"question\": TEXT, \"kind\": TEXT, \"needs\": [NUMBERS]}}: {error}")
        })?,
        _ => return Err(format!("holds {}, not a text", kind(value))),
    };
    question.question = question.question.trim().to_owned();
    Ok(question)
}

/// What is wrong with the questions of one prompt.
fn check(questions: &[PictureQuestion]) -> Result<(), String> {
    let count = questions.len();
    if count > QUESTIONS_MOST {
        return Err(format!("has {count} questions, at most {QUESTIONS_MOST} are asked"));
    }
    for question in questions {
        for text in [Some(&question.question), question.kind.as_ref()].into_iter().flatten() {
            match text.len() {
                0 => return Err("holds an empty text".to_owned()),
                bytes if bytes > BYTES_MOST => {
                    return Err(format!("holds a text of {bytes} bytes, at most {BYTES_MOST} are asked"));
                }
                _ => {}
            }
        }
        if let Some(absent) = question.needs.iter().find(|needed| **needed >= count) {
            return Err(format!(
                "has a question that needs number {absent}, and {count} questions from 0 on"
            ));
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "one text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Questions by the `id` of the prompt that they are about, each prompt's by its propositions' numbers: a table with the columns
/// `item_id`, `proposition_id`, `question_natural_language`, `dependency` (numbers of propositions with commas between them, 0 for
/// none) and `category_broad`, of which the last two may be absent.
///
/// # Source
/// The table of questions that DPG-Bench publishes beside its prompts.
///
/// # Errors
/// [`DataError`], which names file, record and field.
pub fn read(file: &Path) -> Result<BTreeMap<String, Vec<PictureQuestion>>, DataError> {
    let expected = Expected::Questions;
    let mut prompts: BTreeMap<String, BTreeMap<u64, (Place, Row)>> = BTreeMap::new();
    for (place, value) in file::records(file, expected)? {
        let fault = |(field, fault): Fault| DataError::Field {
            file: file.to_owned(),
            place,
            field: field.to_owned(),
            fault: Box::new(fault),
        };
        let Value::Object(fields) = value else {
            return Err(DataError::Record {
                file: file.to_owned(),
                place,
                expected,
                source: None,
            });
        };
        let row = Row::of(&fields).map_err(fault)?;
        let rows = prompts.entry(row.item.clone()).or_default();
        if rows.contains_key(&row.number) {
            return Err(fault((
                NUMBER,
                RecordFault::Type {
                    expected: "a number that no other question of the prompt has",
                },
            )));
        }
        rows.insert(row.number, (place, row));
    }
    if prompts.is_empty() {
        return Err(DataError::Empty {
            file: file.to_owned(),
            expected,
        });
    }
    let of_prompt = |(item, rows): (String, BTreeMap<u64, (Place, Row)>)| {
        let numbers: Vec<u64> = rows.keys().copied().collect();
        let first = rows
            .values()
            .next()
            .map_or(Place { index: 0, line: None }, |(place, _)| *place);
        let mut questions = Vec::with_capacity(rows.len());
        for (place, row) in rows.into_values() {
            questions.push(row.question(&numbers).map_err(|fault| DataError::Field {
                file: file.to_owned(),
                place,
                field: NEEDS.to_owned(),
                fault: Box::new(fault),
            })?);
        }
        check(&questions).map_err(|problem| DataError::Field {
            file: file.to_owned(),
            place: first,
            field: ITEM.to_owned(),
            fault: Box::new(RecordFault::Questions { problem }),
        })?;
        Ok((item, questions))
    };
    prompts.into_iter().map(of_prompt).collect()
}

const ITEM: &str = "item_id";
const NUMBER: &str = "proposition_id";
const NEEDS: &str = "dependency";
const QUESTION: &str = "question_natural_language";
const KIND: &str = "category_broad";

type Fault = (&'static str, RecordFault);

/// A row of the table.
struct Row {
    item: String,
    number: u64,
    text: String,
    kind: Option<String>,
    /// Numbers of propositions of the same prompt.
    needs: Vec<u64>,
}

impl Row {
    fn of(fields: &Map<String, Value>) -> Result<Self, Fault> {
        let cell = |name: &str| fields.get(name).and_then(Value::as_str).map(str::trim);
        let required = |name: &'static str, names: &'static [&'static str]| {
            let text = cell(name).filter(|text| !text.is_empty());
            text.ok_or((name, RecordFault::Missing { names }))
        };
        let numbers = RecordFault::Type {
            expected: "numbers of the prompt's questions with commas between them",
        };
        let parsed: Result<Vec<u64>, _> = match cell(NEEDS) {
            None | Some("") => Ok(Vec::new()),
            Some(text) => text.split(',').map(|number| number.trim().parse()).collect(),
        };
        Ok(Self {
            item: required(ITEM, &[ITEM])?.to_owned(),
            number: required(NUMBER, &[NUMBER])?
                .parse()
                .map_err(|_| (NUMBER, RecordFault::Type { expected: "a number" }))?,
            text: required(QUESTION, &[QUESTION])?.to_owned(),
            kind: cell(KIND).filter(|text| !text.is_empty()).map(str::to_owned),
            needs: parsed
                .map_err(|_| (NEEDS, numbers))?
                .into_iter()
                .filter(|number| *number > 0)
                .collect(),
        })
    }

    /// The question among those of its prompt, which have these numbers.
    fn question(self, numbers: &[u64]) -> Result<PictureQuestion, RecordFault> {
        let position = |needed: u64| {
            numbers.binary_search(&needed).map_err(|_| RecordFault::Questions {
                problem: format!("names question {needed}, which the prompt does not have"),
            })
        };
        Ok(PictureQuestion {
            needs: self.needs.into_iter().map(position).collect::<Result<_, _>>()?,
            question: self.text,
            kind: self.kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(question: &str, kind: Option<&str>, needs: &[usize]) -> PictureQuestion {
        PictureQuestion {
            question: question.to_owned(),
            kind: kind.map(str::to_owned),
            needs: needs.to_vec(),
        }
    }

    #[test]
    fn a_record_writes_questions_as_texts_or_as_objects() {
        let field = json!([" Is there a cup? ", {"question": "Is it red?", "kind": "attribute", "needs": [0]}]);
        let expected = [
            asked("Is there a cup?", None, &[]),
            asked("Is it red?", Some("attribute"), &[0]),
        ];
        assert_eq!(of_field(&field).unwrap(), expected);
        assert_eq!(of_field(&json!([])).unwrap(), []);
    }

    #[test]
    fn a_field_of_another_form_is_refused_with_what_it_is() {
        let many = vec!["?"; QUESTIONS_MOST + 1];
        for (field, problem) in [
            (json!("Is it red?"), "is one text, not a list of texts"),
            (json!({"0": "x"}), "is an object, not a list of texts"),
            (json!(["x", 3]), "holds a number, not a text"),
            (json!(["x", " "]), "holds an empty text"),
            (
                json!(["x".repeat(BYTES_MOST + 1)]),
                "holds a text of 1025 bytes, at most 1024 are asked",
            ),
            (json!([{"question": "x", "kind": ""}]), "holds an empty text"),
            (
                json!(["x", {"question": "y", "needs": [1]}]),
                "has a question, number 1, that needs number 1, which does not stand before it",
            ),
            (
                json!([{"question": "x", "needs": [1]}]),
                "has a question that needs number 1, and 1 questions from 0 on",
            ),
            (json!(many), "has 65 questions, at most 64 are asked"),
        ] {
            assert_eq!(of_field(&field).unwrap_err(), problem);
        }
        let unknown = of_field(&json!([{"question": "x", "needed": [0]}])).unwrap_err();
        assert!(
            unknown.starts_with("holds an object that is not {\"question\": TEXT") && unknown.contains("`needed`"),
            "{unknown}"
        );
    }

    fn table(lines: &[&str]) -> Result<BTreeMap<String, Vec<PictureQuestion>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("questions.csv");
        std::fs::write(&file, lines.join("\n")).unwrap();
        read(&file).map_err(|error| error.to_string().replace(&format!("{}: ", file.display()), ""))
    }

    const HEADER: &str = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language";

    #[test]
    fn a_table_of_propositions_gives_each_prompt_its_questions() {
        let found = table(&[
            HEADER,
            "b,words,,2,1,attribute,color,\"attribute - color (cup, red)\",Is the cup red?",
            "b,words,,1,0,entity,whole,entity - whole (cup),Is there a cup?",
            "a,words,,3,\"1, 2\",relation,spatial,x,Is the cup on the tray?",
            "a,words,,1,0,entity,whole,x,Is there a cup?",
            "a,words,,2,0,entity,whole,x,Is there a tray?",
        ]);
        let expected = BTreeMap::from([
            (
                "a".to_owned(),
                vec![
                    asked("Is there a cup?", Some("entity"), &[]),
                    asked("Is there a tray?", Some("entity"), &[]),
                    asked("Is the cup on the tray?", Some("relation"), &[0, 1]),
                ],
            ),
            (
                "b".to_owned(),
                vec![
                    asked("Is there a cup?", Some("entity"), &[]),
                    asked("Is the cup red?", Some("attribute"), &[0]),
                ],
            ),
        ]);
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_its_line() {
        for (row, problem) in [
            (",x,,1,0,e,w,t,Is it?", "record 0 (line 2): `item_id` is missing"),
            (
                "a,x,,one,0,e,w,t,Is it?",
                "record 0 (line 2): `proposition_id` must be a number",
            ),
            (
                "a,x,,1,none,e,w,t,Is it?",
                "record 0 (line 2): `dependency` must be numbers of the prompt's questions with commas between them",
            ),
            (
                "a,x,,1,7,e,w,t,Is it?",
                "record 0 (line 2): `dependency` names question 7, which the prompt does not have",
            ),
            (
                "a,x,,1,0,e,w,t,",
                "record 0 (line 2): `question_natural_language` is missing",
            ),
        ] {
            assert_eq!(table(&[HEADER, row]).unwrap_err(), problem);
        }
        let twice = table(&[HEADER, "a,x,,1,0,e,w,t,Is it?", "a,x,,1,0,e,w,t,Is it so?"]).unwrap_err();
        assert_eq!(
            twice,
            "record 1 (line 3): `proposition_id` must be a number that no other question of the prompt has"
        );
        assert_eq!(table(&[HEADER]).unwrap_err(), "no question");
    }
}
