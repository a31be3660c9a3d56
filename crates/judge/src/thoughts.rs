//! What a model thinks before it answers.

/// Where models that think aloud stop.
const END: &str = "</think>";
const BEGIN: &str = "<think>";

/// The answer: what stands after the thoughts. Nothing where the model never got beyond them.
pub(crate) fn answer(text: &str) -> &str {
    match text.rfind(END) {
        Some(end) => &text[end + END.len()..],
        None if text.trim_start().starts_with(BEGIN) => "",
        None => text,
    }
}

/// The index of the first token of the answer, among tokens that may think first.
pub(crate) fn first_of_answer<'a>(tokens: impl Iterator<Item = &'a str>) -> usize {
    let mut text = String::new();
    let mut first = 0;
    for (index, token) in tokens.enumerate() {
        let before = text.len();
        text.push_str(token);
        // A token may hold no more than a part of the tag.
        let from = text.floor_char_boundary(before.saturating_sub(END.len()));
        if text[from..].rfind(END).is_some_and(|at| from + at + END.len() > before) {
            first = index + 1;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_are_no_answer() {
        for (text, expected) in [
            ("2", "2"),
            ("<think>1, surely.</think>\n2", "\n2"),
            ("1, surely.</think>2", "2"),
            ("<think>1</think><think>or 2</think>1", "1"),
            ("  <think>1, sure", ""),
            ("I <think> so", "I <think> so"),
        ] {
            assert_eq!(answer(text), expected, "{text}");
        }
    }

    #[test]
    fn the_first_token_of_an_answer_comes_after_all_thoughts() {
        for (tokens, expected) in [
            (vec!["1", " is"], 0),
            (vec!["<think>", "1", "</think>", "2"], 3),
            (vec!["é1", "</", "think", ">", "2"], 4),
            (vec!["1", "</think>", "\n\n", "2"], 2),
            (vec!["</think>", "</think>", "2"], 2),
            (vec![], 0),
        ] {
            assert_eq!(first_of_answer(tokens.iter().copied()), expected, "{tokens:?}");
        }
    }
}
