//! `gavel evaluate --write-questions` with a server that writes, given to the real binary; the small judge answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::gavel;

const SMALL: &str = "tests/compatibility/small.toml";
const EDITS: &str = "configs/quickstart-edit.toml";

/// Standard output and standard error of a command that must succeed.
fn told(arguments: &[&str]) -> (String, String) {
    let output = gavel(arguments);
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{error}");
    (out, error)
}

/// Standard error of a command that must fail.
fn failure(arguments: &[&str]) -> String {
    let output = gavel(arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// A server that is asked for words.
struct Writer {
    endpoint: String,
    asked: Arc<AtomicUsize>,
    last: Arc<Mutex<Value>>,
}

impl Writer {
    /// Answers what `answers` finds in the last turn's words.
    fn start(answers: &'static [(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Value::Null)));
        let (counted, seen) = (Arc::clone(&asked), Arc::clone(&last));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&stream);
                let mut answer = json!({"object": "list", "data": [{"id": "w"}]});
                if let Some(request) = request {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let turn = request["messages"].as_array().unwrap().last().unwrap().clone();
                    let words = turn.to_string();
                    let found = answers.iter().find(|(part, _)| words.contains(part));
                    let text = found.map_or("I would rather not say.", |(_, text)| *text);
                    *seen.lock().unwrap() = turn;
                    let message = json!({"role": "assistant", "content": text});
                    answer = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
                }
                let body = answer.to_string();
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        Self { endpoint, asked, last }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The settings by which it writes.
    fn settings(&self) -> Vec<String> {
        let keys = [
            "judge.writer.family=openai".to_owned(),
            "judge.writer.model=w".to_owned(),
            "judge.writer.template=configs/rubric/en/write.toml".to_owned(),
            format!("judge.writer.endpoint={}", self.endpoint),
        ];
        keys.into_iter().flat_map(|key| ["--set".to_owned(), key]).collect()
    }
}

/// The body of a request, if it has one.
fn read(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).ok()
}

const SQUARE: (&str, &str) = (
    "a red square",
    r#"{"questions": [{"number": 1, "question": "Is there a square?", "kind": "entity", "needs": []},
        {"number": 2, "question": "Is the square red?", "kind": "attribute", "needs": [1]}]}"#,
);

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An evaluation of the base.
fn arguments<'a>(config: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let whole = ["evaluate", config, "--subject", "base", "--out", out.to_str().unwrap()];
    [&whole[..], more].concat()
}

#[test]
fn questions_are_written_once_and_can_be_taken_out_and_used_again() {
    let writer = Writer::start(&[SQUARE]);
    let folder = TempDir::new().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    let records = [
        r#"{"prompt": "a red square on a white background"}"#,
        r#"{"prompt": "a green square on a white background", "tag": "own", "questions": ["Is it green?"]}"#,
        r#"{"prompt": "a blue circle on a gray background"}"#,
    ];
    std::fs::write(&prompts, records.join("\n")).unwrap();
    let settings = writer.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let writing = [
        &["--write-questions", "--prompts", prompts.to_str().unwrap(), "--json"][..],
        &settings[..],
    ]
    .concat();
    let out = folder.path().join("out");
    let (first, noted) = told(&arguments(SMALL, &out, &writing));
    assert!(
        noted.contains(
            "wrote no question that can be asked about 1 of the 2 prompts, number 2; of the first: there is no JSON"
        ),
        "{noted}"
    );
    assert_eq!(
        writer.asked(),
        1 + 3,
        "the third prompt is asked about until there is no hope"
    );
    let found: Value = serde_json::from_str(&first).unwrap();
    let author = &found["question_author"];
    assert_eq!((&author["written"], &author["unwritten"]), (&json!([0]), &json!([2])));
    let asked = |prompt: usize| found["prompts"][prompt]["pictures"][0]["questions"].clone();
    let expected = json!({"question": "Is the square red?", "kind": "attribute", "needs": [0]});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(asked(0)[1][field], *value);
    }
    assert!(
        asked(0)[0]["yes"].is_boolean(),
        "the judge answers, not the writer: {}",
        asked(0)
    );
    assert_eq!(
        (&asked(1)[0]["question"], asked(2)),
        (&json!("Is it green?"), Value::Null)
    );

    // The same bytes, and nothing is asked for again.
    assert_eq!(told(&arguments(SMALL, &out, &writing)).0, first);
    assert_eq!(writer.asked(), 4);

    // What was written is read as prompts, without a writer.
    let file = out.join("questions.jsonl");
    let kept = lines(&file);
    let square = json!([{"question": "Is there a square?", "kind": "entity"}, expected]);
    assert_eq!(
        kept[0],
        json!({"prompt": "a red square on a white background", "questions": square})
    );
    assert_eq!(
        (&kept[1]["tag"], &kept[1]["questions"]),
        (&json!("own"), &json!([{"question": "Is it green?"}]))
    );
    assert_eq!(kept[2]["questions"], json!([]));
    let (again, _) = told(&arguments(
        SMALL,
        &out,
        &["--prompts", file.to_str().unwrap(), "--json"],
    ));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["figures"], found["figures"]);
    assert_eq!(
        std::fs::read_dir(out.join("pictures")).unwrap().count(),
        3,
        "nothing was painted twice"
    );

    // A shard writes about its own prompts alone, and the last command about the rest.
    let shared = folder.path().join("shared");
    let of_shard: Vec<&str> = writing.iter().copied().filter(|one| *one != "--json").collect();
    told(&arguments(
        SMALL,
        &shared,
        &[&of_shard[..], &["--shard", "1/3"]].concat(),
    ));
    assert_eq!((writer.asked(), shared.join("questions.jsonl").exists()), (5, false));
    assert_eq!(told(&arguments(SMALL, &shared, &writing)).0, first);
    assert_eq!(writer.asked(), 8);
}

#[test]
fn an_edit_is_taken_apart_beside_its_source_and_its_record_is_kept_with_it() {
    let writer = Writer::start(&[(
        "",
        r#"{"questions": [{"number": 1, "question": "Is the rest as before?", "kind": "preservation", "needs": []},
            {"number": 2, "question": "Is the change there?", "kind": "fulfilment", "needs": []}]}"#,
    )]);
    let folder = TempDir::new().unwrap();
    let settings = writer.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let two = ["--set", "evaluation.prompts=2", "--json"];
    let out = folder.path().join("out");
    let (first, _) = told(&arguments(
        EDITS,
        &out,
        &[&two[..], &["--write-questions"], &settings[..]].concat(),
    ));
    let found: Value = serde_json::from_str(&first).unwrap();
    let asked = &found["prompts"][0]["pictures"][0]["questions"];
    assert_eq!(
        (&asked[0]["question"], &asked[1]["needs"]),
        (&json!("Is the change there?"), &json!([0]))
    );
    let shown = writer.last.lock().unwrap()["content"].to_string();
    assert_eq!(shown.matches("data:image").count(), 1, "the writer sees the source");

    let file = out.join("questions.jsonl");
    let source = lines(&file)[0]["source"][0].as_str().unwrap().to_owned();
    assert!(out.join(&source).is_file(), "{source}");
    let (again, _) = told(&arguments(
        EDITS,
        &out,
        &[&two[..], &["--prompts", file.to_str().unwrap()]].concat(),
    ));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["figures"], found["figures"]);
    assert_eq!(
        std::fs::read_dir(out.join("pictures")).unwrap().count(),
        2,
        "the edits are the same ones"
    );
}

#[test]
fn a_model_that_writes_no_question_at_all_ends_it_before_anything_is_painted() {
    let writer = Writer::start(&[]);
    let folder = TempDir::new().unwrap();
    let settings = writer.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let out = folder.path().join("out");
    let refused = failure(&arguments(
        SMALL,
        &out,
        &[&["--write-questions"][..], &settings[..]].concat(),
    ));
    assert!(
        refused.contains("wrote no question that can be asked about any of the 4 prompts")
            && refused.contains("questions.jsonl"),
        "{refused}"
    );
    assert_eq!(std::fs::read_dir(out.join("pictures")).unwrap().count(), 0);
}
