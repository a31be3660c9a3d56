//! What a model wrote, read tolerantly.

use serde::Deserialize;
use serde_json::{Value, json};

/// The JSON Schema of `count` criteria.
pub(super) fn criteria_schema(count: usize) -> Value {
    json!({
        "type": "object",
        "properties": {
            "criteria": {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count},
        },
        "required": ["criteria"],
        "additionalProperties": false,
    })
}

/// The JSON Schema of at most `count` themes.
pub(super) fn themes_schema(count: usize) -> Value {
    json!({
        "type": "object",
        "properties": {
            "themes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "theme": {"type": "string"},
                        "tips": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    },
                    "required": ["theme", "tips"],
                    "additionalProperties": false,
                },
                "minItems": 1,
                "maxItems": count,
            },
        },
        "required": ["themes"],
        "additionalProperties": false,
    })
}

/// The JSON Schema of a score.
pub(super) fn score_schema(min: i64, max: i64) -> Value {
    json!({
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": min, "maximum": max}},
        "required": ["score"],
        "additionalProperties": false,
    })
}

/// A theme as a model wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct WrittenTheme {
    #[serde(alias = "name", alias = "title")]
    pub(super) theme: String,
    #[serde(alias = "criteria")]
    pub(super) tips: Vec<String>,
}

/// The criteria of an answer, each on one line and without a bullet, at most `count`; `None` when there is none.
pub(super) fn criteria(text: &str, count: usize) -> Option<Vec<String>> {
    let value = json_in(text)?;
    let listed = value.get("criteria").unwrap_or(&value).as_array()?;
    let mut criteria: Vec<String> = listed.iter().filter_map(Value::as_str).filter_map(line).collect();
    criteria.truncate(count);
    (!criteria.is_empty()).then_some(criteria)
}

/// The themes of an answer, blank ones left out; `None` when there is none.
pub(super) fn themes(text: &str) -> Option<Vec<WrittenTheme>> {
    let mut value = json_in(text)?;
    let listed = match value.get_mut("themes") {
        Some(themes) => themes.take(),
        None => value,
    };
    let written: Vec<WrittenTheme> = serde_json::from_value(listed).ok()?;
    let tidy = |written: WrittenTheme| {
        Some(WrittenTheme {
            theme: line(&written.theme)?,
            tips: written.tips.iter().filter_map(|tip| line(tip)).collect(),
        })
    };
    let themes: Vec<WrittenTheme> = written.into_iter().filter_map(tidy).collect();
    (!themes.is_empty()).then_some(themes)
}

/// The score of an answer.
pub(super) fn score(text: &str) -> Option<i64> {
    let value = json_in(text)?;
    let score = value.get("score").unwrap_or(&value);
    score.as_i64().or_else(|| {
        score
            .as_f64()
            .filter(|score| score.fract() == 0.0)
            .map(|score| score as i64)
    })
}

/// A text as one line, without the bullet or number that models put before it; `None` when nothing is left.
pub(super) fn line(text: &str) -> Option<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let bare = text.trim_start_matches(['-', '*', '•']).trim_start();
    let digits = bare.len() - bare.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let bare = match bare[digits..].strip_prefix(['.', ')']) {
        // "3.5 metres" is no numbered line.
        Some(rest) if digits > 0 && rest.starts_with(' ') => rest.trim_start(),
        _ => bare,
    };
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// The first JSON object, array or number in a text, whatever stands around it; a comma before a closing bracket is forgiven.
pub(super) fn json_in(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text.trim()) {
        return Some(value);
    }
    for (start, _) in text.match_indices(['{', '[']) {
        if let Some(value) = balanced(&text[start..]).and_then(|piece| serde_json::from_str(&piece).ok()) {
            return Some(value);
        }
    }
    None
}

/// The text up to the bracket that closes its first one, without trailing commas; `None` when it never closes.
fn balanced(text: &str) -> Option<String> {
    let mut piece = String::new();
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for letter in text.chars() {
        if in_text {
            in_text = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
        } else {
            match letter {
                '"' => in_text = true,
                '{' | '[' => depth += 1,
                '}' | ']' => {
                    depth = depth.checked_sub(1)?;
                    let kept = piece.trim_end();
                    if kept.ends_with(',') {
                        piece.truncate(kept.len() - 1);
                    }
                }
                _ => {}
            }
        }
        piece.push(letter);
        if depth == 0 {
            return Some(piece);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn criteria_are_found_in_what_models_write() {
        for text in [
            r#"{"criteria": ["Sharp.", "Well lit."]}"#,
            "```json\n{\"criteria\": [\"Sharp.\", \"Well lit.\"]}\n```",
            "Here [you] are: {\"criteria\": [\"- Sharp.\", \"2. Well\\nlit.\",],} I hope it helps!",
            r#"["Sharp.", " ", "Well lit.", "One too many."]"#,
        ] {
            assert_eq!(criteria(text, 2).unwrap(), ["Sharp.", "Well lit."], "{text}");
        }
        for text in ["", "no", "{}", "{\"criteria\": []}", "{\"criteria\": [\"cut o"] {
            assert_eq!(criteria(text, 2), None, "{text}");
        }
        assert_eq!(line("3.5 metres \"[wide]\"").unwrap(), "3.5 metres \"[wide]\"");
    }

    #[test]
    fn brackets_and_commas_inside_texts_stay() {
        let text = r#"So: {"criteria": ["a, ] b \" , }", "c",]}"#;
        assert_eq!(criteria(text, 5).unwrap(), ["a, ] b \" , }", "c"]);
    }

    #[test]
    fn themes_and_scores() {
        let text = r#"{"themes": [{"theme": "Colour", "tips": ["a"]}, {"theme": " ", "tips": ["b"]}]}"#;
        let expected = [WrittenTheme {
            theme: "Colour".into(),
            tips: vec!["a".into()],
        }];
        assert_eq!(themes(text).unwrap(), expected);
        assert_eq!(themes("{\"themes\": 3}"), None);
        assert_eq!(
            (score("{\"score\": 4.0}"), score("4"), score("four")),
            (Some(4), Some(4), None)
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(text in ".{0,60}", brackets in "[\\[\\]{}\",\\\\a:é]{0,30}") {
            for text in [text, brackets] {
                let _ = (criteria(&text, 3), themes(&text), score(&text));
            }
        }
    }
}
