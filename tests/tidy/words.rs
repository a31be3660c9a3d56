//! One word per idea (ARCHITECTURE.md, "One word per idea"): words that something else is called by must not come back.

use crate::{assert_none, rust_files};

/// Words that no identifier and no text of the program uses, each with the one that it gave way to.
const GIVEN_UP: &[(&str, &str)] = &[("caption", "prompt")];

const VARIABLE: &str = "`{{ caption }}` is what people's own template files say";

/// Places where a word stays, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "caption",
        "crates/eval/src/scenes/",
        "what a scene's description is called where scenes are drawn from it",
    ),
    (
        "caption",
        "crates/rubric/src/data/tasks.rs",
        "what public sets call the words of a picture",
    ),
    ("caption", "crates/rubric/src/template.rs", VARIABLE),
    ("caption", "crates/rubric/src/reason.rs", VARIABLE),
    ("caption", "crates/rubric/src/recorded.rs", VARIABLE),
    ("caption", "crates/rubric/src/generate/case.rs", VARIABLE),
    ("caption", "crates/rubric/src/generate/prompts.rs", VARIABLE),
    (
        "caption",
        "crates/rubric/src/generate/prompt_sets/template.rs",
        VARIABLE,
    ),
];

#[test]
fn a_word_that_was_given_up_does_not_come_back() {
    let mut problems = Vec::new();
    let files = rust_files();
    for (word, instead) in GIVEN_UP {
        let is_exception = |path: &str| {
            EXCEPTIONS
                .iter()
                .any(|(excepted, place, _)| excepted == word && path.starts_with(place))
        };
        for file in files.iter().filter(|file| !is_exception(&file.path)) {
            let lines = file.code_lines_where(|line| line.to_lowercase().contains(word));
            problems.extend(lines.into_iter().map(|line| format!("{line}  (say {instead})")));
        }
    }
    assert_none(&problems);
}

#[test]
fn every_exception_is_still_needed() {
    let files = rust_files();
    for (word, place, reason) in EXCEPTIONS {
        let is_used = files
            .iter()
            .filter(|file| file.path.starts_with(place))
            .any(|file| file.text.to_lowercase().contains(word));
        assert!(
            is_used,
            "{place} says `{word}` no more ({reason}): remove the exception"
        );
    }
}
