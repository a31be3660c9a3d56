//! What a model means by its words. Nothing is guessed: words that do not say one thing are no answer.

use serde_json::Value;

/// Words that may stand around a label without changing what it says.
const AROUND_A_LABEL: [&str; 12] = [
    "answer",
    "better",
    "best",
    "final",
    "image",
    "is",
    "my",
    "number",
    "option",
    "picture",
    "preferred",
    "the",
];

/// Which picture, 0 or 1, an answer in JSON ranks first.
///
/// The object may stand among other words or in a code fence. `rank` must give each picture another of the ranks 1 and 2.
///
/// # Errors
/// Says what is wrong with the answer.
pub(super) fn rank(text: &str) -> Result<usize, String> {
    let mut found: Option<Result<usize, String>> = None;
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let mut values = serde_json::Deserializer::from_str(&rest[start..]).into_iter::<Value>();
        let value = values.next();
        let end = start + values.byte_offset().max(1);
        if let Some(Ok(value)) = value
            && let Some(rank) = value.get("rank")
        {
            let read = first_of(rank);
            if found.as_ref().is_some_and(|before| *before != read) {
                return Err(format!("the answer gives two different ranks: {}", excerpt(text)));
            }
            found = Some(read);
        }
        rest = &rest[end.min(rest.len())..];
    }
    found.unwrap_or_else(|| {
        Err(format!(
            "the answer holds no JSON object with a rank: {}",
            excerpt(text)
        ))
    })
}

fn first_of(rank: &Value) -> Result<usize, String> {
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    let ranks: Vec<Option<u64>> = rank.as_array().into_iter().flatten().map(number).collect();
    match ranks.as_slice() {
        [Some(1), Some(2)] => Ok(0),
        [Some(2), Some(1)] => Ok(1),
        _ => Err(format!("the answer's rank is {rank}, not 1 and 2 in some order")),
    }
}

/// Which label, 0 or 1, an answer consists of.
pub(super) fn label(text: &str, labels: &[String]) -> Option<usize> {
    let place = |word: &str| labels.iter().position(|label| label.eq_ignore_ascii_case(word));
    if let Some(place) = place(text.trim()) {
        return Some(place);
    }
    let mut found = None;
    for word in text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        match place(word) {
            Some(place) if found.is_none_or(|before| before == place) => found = Some(place),
            Some(_) => return None,
            None if AROUND_A_LABEL.contains(&word.to_ascii_lowercase().as_str()) => {}
            None => return None,
        }
    }
    found
}

/// The beginning of an answer, in quotes.
pub(super) fn excerpt(text: &str) -> String {
    const LETTERS: usize = 120;
    let mut words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(LETTERS) {
        words.truncate(end);
        words += "...";
    }
    format!("`{words}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_found_in_fences_and_prose() {
        assert_eq!(rank(r#"{"reason": "sharper", "rank": [1, 2]}"#), Ok(0));
        assert_eq!(
            rank("Sure!\n```json\n{\"rank\": [2, 1], \"reason\": \"{odd}\"}\n```"),
            Ok(1)
        );
        assert_eq!(rank(r#"{not json} {"rank": ["2", "1"]} and so on"#), Ok(1));
        assert_eq!(rank(r#"{"a": {"rank": [2, 1]}, "rank": [1, 2]}"#), Ok(0));
    }

    #[test]
    fn whatever_is_no_clear_rank_is_no_answer() {
        for text in [
            "",
            "I am sorry, I cannot compare these.",
            r#"{"rank": [1, 1]}"#,
            r#"{"rank": [1]}"#,
            r#"{"rank": [1, 2, 3]}"#,
            r#"{"rank": [0, 1]}"#,
            r#"{"rank": 1}"#,
            r#"{"rank": [1.5, 2]}"#,
            r#"{"rank": [1, 2"#,
            r#"{"rank": [1, 2]} or rather {"rank": [2, 1]}"#,
        ] {
            assert!(rank(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_is_found_alone_or_among_words_that_say_nothing_else() {
        let labels = ["1".to_owned(), "2".to_owned()];
        for (text, expected) in [
            ("1", Some(0)),
            (" 2.\n", Some(1)),
            ("**2**", Some(1)),
            ("Picture 2 is better.", Some(1)),
            ("Answer: 1", Some(0)),
            ("1 or 2", None),
            ("Both miss criterion 1", None),
            ("not 2", None),
            ("12", None),
            ("", None),
        ] {
            assert_eq!(label(text, &labels), expected, "{text}");
        }
    }
}
