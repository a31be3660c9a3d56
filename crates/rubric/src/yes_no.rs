//! Questions about one picture, answered by yes or no.

use gavel_core::ids::Digest;
use serde_json::json;

use crate::data::Picture;
use crate::recorded::{Question, Recorded};
use crate::{AskError, Chat, Message, Part};

/// Tokens that either answer and its quotation marks need, with some to spare for tokenizers that split them.
const TOKENS_MOST: u32 = 8;

impl Recorded<'_> {
    /// Whether what `question` asks holds of a picture, which is an edit of `sources` where there are any; `None` where the answer is
    /// neither yes nor no. From the journal, or from `chat`.
    ///
    /// # Errors
    /// [`AskError`] of the model, or of a journal that cannot be written.
    pub fn yes_or_no(
        &self,
        chat: &dyn Chat,
        question: &str,
        sources: &[Picture],
        picture: &Picture,
    ) -> Result<Option<bool>, AskError> {
        let reply = with_question(question, sources, picture, |question| self.reply(chat, question))?;
        Ok(read(&reply.text))
    }

    /// Keeps in the journal what the same model, asked elsewhere, answered to [`yes_or_no`](Self::yes_or_no).
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn keep_yes_or_no(
        &self,
        chat: &dyn Chat,
        question: &str,
        sources: &[Picture],
        picture: &Picture,
        yes: Option<bool>,
    ) -> Result<(), AskError> {
        let text = match yes {
            Some(true) => "\"yes\"",
            Some(false) => "\"no\"",
            None => "",
        };
        with_question(question, sources, picture, |question| {
            self.keep_reply(chat, question, text)
        })
    }
}

/// All that an answer to [`Recorded::yes_or_no`] depends on.
pub fn yes_or_no_key(chat: &dyn Chat, question: &str, sources: &[Picture], picture: &Picture) -> Digest {
    with_question(question, sources, picture, |question| question.key(chat))
}

/// What is asked of a model, made of a question about a picture.
fn with_question<T>(
    question: &str,
    sources: &[Picture],
    picture: &Picture,
    then: impl FnOnce(&Question<'_>) -> T,
) -> T {
    let pictures: Vec<&Picture> = sources.iter().chain([picture]).collect();
    then(&Question {
        messages: &[asked(question, sources.len())],
        pictures: &pictures,
        max_tokens: TOKENS_MOST,
        temperature: 0.0,
        seed: 0,
        schema: &json!({ "type": "string", "enum": ["yes", "no"] }),
    })
}

/// The turn that asks. Sources come first, each named, as the judge's own templates for edits have it.
fn asked(question: &str, sources: usize) -> Message {
    let mut content = Vec::with_capacity(2 * sources + 3);
    for index in 0..sources {
        content.push(Part::Text("Before the edit:".to_owned()));
        content.push(Part::Image(index));
    }
    if sources > 0 {
        content.push(Part::Text("After the edit:".to_owned()));
    }
    content.push(Part::Image(sources));
    content.push(Part::Text(format!(
        "Look at the picture and answer with one word, yes or no. {question}"
    )));
    Message {
        role: "user".to_owned(),
        content,
    }
}

/// The first word, if it is one of the two: models add full stops, quotation marks and reasons.
fn read(answer: &str) -> Option<bool> {
    let mut words = answer.split(|letter: char| !letter.is_alphanumeric());
    let first = words.find(|word| !word.is_empty())?;
    match first.to_lowercase().as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use gavel_core::ids::Digest;
    use gavel_core::work::Usage;
    use image::RgbImage;

    use super::*;
    use crate::data::ReadOptions;
    use crate::{ChatReply, ChatRequest};

    #[test]
    fn the_first_word_decides_and_any_other_is_no_answer() {
        for yes in ["yes", "\"Yes\"", " yes, there is.", "YES"] {
            assert_eq!(read(yes), Some(true), "{yes}");
        }
        for no in ["no", "No.", "\"no\"", "no: none is red"] {
            assert_eq!(read(no), Some(false), "{no}");
        }
        for other in ["", "...", "yesterday", "not sure", "maybe yes"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    // The text of models/train/judge/answer_prompt.py; the small model that answers knows no other.
    #[test]
    fn a_picture_is_asked_about_in_the_words_that_the_small_model_was_trained_on() {
        let message = asked("Is there a red circle?", 0);
        assert_eq!(message.role, "user");
        let [Part::Image(0), Part::Text(text)] = message.content.as_slice() else {
            panic!("{:?}", message.content)
        };
        assert_eq!(
            text,
            "Look at the picture and answer with one word, yes or no. Is there a red circle?"
        );
    }

    /// Says what it was asked by, and notes how many pictures it saw.
    #[derive(Default)]
    struct Yes(Mutex<Vec<(usize, String)>>);

    impl Chat for Yes {
        fn name(&self) -> &str {
            "yes"
        }

        fn identity(&self) -> Digest {
            Digest::of(b"yes")
        }

        fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
            let asked = format!("{:?}", request.messages);
            self.0.lock().unwrap().push((request.images.len(), asked));
            Ok(ChatReply {
                text: "\"yes\"".to_owned(),
                complete: true,
                usage: Usage::default(),
            })
        }
    }

    fn picture(level: u8) -> Picture {
        let mut png = std::io::Cursor::new(Vec::new());
        let image = RgbImage::from_pixel(8, 8, image::Rgb([level; 3]));
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        Picture::checked(png.into_inner(), &ReadOptions::local()).unwrap()
    }

    #[test]
    fn what_was_answered_elsewhere_is_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = crate::Journal::open(&folder.path().join("journal"), "now").unwrap();
        let (chat, recorded) = (Yes::default(), Recorded::new(Some(&journal)));
        let (before, after) = ([picture(1)], picture(2));
        for (question, yes) in [
            ("Is it red?", Some(true)),
            ("Is it blue?", Some(false)),
            ("Is it?", None),
        ] {
            recorded.keep_yes_or_no(&chat, question, &before, &after, yes).unwrap();
            assert_eq!(recorded.yes_or_no(&chat, question, &before, &after).unwrap(), yes);
        }
        assert!(chat.0.lock().unwrap().is_empty());
        // Without the source it is another question.
        assert_eq!(
            recorded.yes_or_no(&chat, "Is it blue?", &[], &after).unwrap(),
            Some(true)
        );
        let key = |question, sources: &[Picture]| yes_or_no_key(&chat, question, sources, &after);
        assert_eq!(key("Is it?", &before), key("Is it?", &before));
        assert!(key("Is it?", &before) != key("Is it?", &[]) && key("Is it?", &[]) != key("Is it red?", &[]));
    }

    #[test]
    fn an_edit_is_asked_about_beside_its_sources() {
        let chat = Yes::default();
        let recorded = Recorded::new(None);
        let (before, after) = (picture(1), picture(2));
        let found = recorded.yes_or_no(&chat, "Is it lighter?", std::slice::from_ref(&before), &after);
        assert_eq!(found.unwrap(), Some(true));
        assert_eq!(
            recorded.yes_or_no(&chat, "Is it red?", &[], &after).unwrap(),
            Some(true)
        );
        let asked = chat.0.into_inner().unwrap();
        assert_eq!(asked.iter().map(|(pictures, _)| *pictures).collect::<Vec<_>>(), [2, 1]);
        assert!(asked[0].1.contains("Before the edit:") && asked[0].1.contains("Is it lighter?"));
        assert!(!asked[1].1.contains("edit") && asked[1].1.contains("Is it red?"));
    }
}
