//! What goes over the wire: the part of OpenAI's chat completions that judges need.
//!
//! Answers are read leniently. Servers differ in what they leave out, and a field that is not needed must not fail a verdict.

use base64::Engine as _;
use gavel_rubric::{Message, Part};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};
use serde::Deserialize;
use serde_json::{Value, json};

use super::read;
use crate::thoughts;

/// The messages of a request; pictures are PNG data URLs, so that the model sees the very pixels.
pub(super) fn messages(messages: &[Message], images: &[&RgbImage]) -> Result<Vec<Value>, image::ImageError> {
    let mut urls: Vec<Option<String>> = vec![None; images.len()];
    let mut written = Vec::with_capacity(messages.len());
    for message in messages {
        let is_text = message.content.iter().all(|part| matches!(part, Part::Text(_)));
        let content = if is_text {
            // Some servers take nothing but a text from a system message.
            let texts = message.content.iter().map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Image(_) => "",
            });
            Value::String(texts.collect())
        } else {
            let mut parts = Vec::with_capacity(message.content.len());
            for part in &message.content {
                parts.push(match part {
                    Part::Text(text) => json!({ "type": "text", "text": text }),
                    Part::Image(place) => {
                        let url = match &mut urls[*place] {
                            Some(url) => url.clone(),
                            unwritten => unwritten.insert(data_url(images[*place])?).clone(),
                        };
                        json!({ "type": "image_url", "image_url": { "url": url } })
                    }
                });
            }
            Value::Array(parts)
        };
        written.push(json!({ "role": message.role, "content": content }));
    }
    Ok(written)
}

fn data_url(image: &RgbImage) -> Result<String, image::ImageError> {
    Ok(format!("data:image/png;base64,{}", png_base64(image)?))
}

/// A picture as PNG, in base64.
pub(crate) fn png_base64(image: &RgbImage) -> Result<String, image::ImageError> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(png))
}

/// An answer, as it comes.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: Written,
    #[serde(default)]
    finish_reason: Option<String>,
    /// Read only where likelihoods were asked for; its layout differs between servers.
    #[serde(default)]
    logprobs: Value,
    /// In the place of an answer.
    #[serde(default)]
    error: Value,
}

#[derive(Debug, Deserialize)]
struct Written {
    #[serde(default)]
    content: Value,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Tokens {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
}

/// What the model has said, without what it thought before.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) text: String,
    /// Whether the model ended the answer itself, and was not cut off.
    pub(super) complete: bool,
    /// The likeliest first tokens of the answer with their log-probabilities, where the server shows any.
    pub(super) likelihoods: Option<Vec<(String, f64)>>,
    /// What the whole answer took.
    pub(super) tokens: Option<Tokens>,
}

/// Why an answer says nothing.
#[derive(Debug, PartialEq)]
pub(super) enum Silence {
    /// The model does not want to answer.
    Refused(String),
    /// The model was cut off before it began to answer.
    CutOff,
    /// There is nothing, or a fault of the server in its place.
    Nothing(String),
}

impl Completion {
    /// What the first choice says.
    pub(super) fn said(self) -> Result<Said, Silence> {
        let Some(choice) = self.choices.into_iter().next() else {
            return Err(Silence::Nothing("the answer is empty".into()));
        };
        let refusal = choice.message.refusal.as_deref().filter(|refusal| !refusal.is_empty());
        let ended = choice.finish_reason.as_deref();
        if let Some(refusal) = refusal {
            return Err(Silence::Refused(read::excerpt(refusal)));
        }
        if ended == Some("content_filter") {
            return Err(Silence::Refused("the server's content filter".into()));
        }
        if ended == Some("error") || !choice.error.is_null() {
            let error = &choice.error;
            let words = error["message"]
                .as_str()
                .map_or_else(|| error.to_string(), str::to_owned);
            return Err(Silence::Nothing(format!(
                "the server failed: {}",
                read::excerpt(&words)
            )));
        }
        let complete = ended != Some("length");
        let text = thoughts::answer(&choice.message.text()).to_owned();
        if text.trim().is_empty() {
            return Err(match complete {
                true => Silence::Nothing("the answer is empty".into()),
                false => Silence::CutOff,
            });
        }
        Ok(Said {
            likelihoods: first_token(&choice.logprobs, &text),
            text,
            complete,
            tokens: self.usage,
        })
    }
}

impl Written {
    /// The words, also where a server sends them in parts.
    fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }
}

/// The likeliest tokens at the beginning of the answer `text` with their log-probabilities; `None` where the server shows none,
/// or those of something else, such as its thoughts.
fn first_token(logprobs: &Value, text: &str) -> Option<Vec<(String, f64)>> {
    let tokens = logprobs["content"].as_array()?;
    let words = |token: &Value| token["token"].as_str().unwrap_or_default().to_owned();
    let all: Vec<String> = tokens.iter().map(words).collect();
    let begin = thoughts::first_of_answer(all.iter().map(String::as_str));
    // Some models begin with an empty or a blank token.
    let place = (begin..all.len()).find(|place| !all[*place].trim().is_empty())?;
    if !text.trim_start().starts_with(all[place].trim()) {
        return None;
    }
    let likely: Vec<(String, f64)> = tokens[place]["top_logprobs"]
        .as_array()?
        .iter()
        .filter_map(|token| Some((token["token"].as_str()?.to_owned(), token["logprob"].as_f64()?)))
        .collect();
    (!likely.is_empty()).then_some(likely)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(choice: Value) -> Result<Said, Silence> {
        let completion: Completion = serde_json::from_value(json!({ "choices": [choice] })).unwrap();
        completion.said()
    }

    fn token(text: &str) -> Value {
        json!({ "token": text, "logprob": -0.1, "top_logprobs": [{ "token": text, "logprob": -0.1 }] })
    }

    #[test]
    fn an_answer_that_is_empty_cut_off_or_an_error_is_none() {
        let silence = |choice| said(choice).unwrap_err();
        let nothing = |words: &str| Silence::Nothing(words.to_owned());
        let message = json!({ "content": "" });
        for content in [
            json!(""),
            json!(" \n"),
            json!(null),
            json!("<think>1</think>\n"),
            json!([]),
        ] {
            let choice = json!({ "message": { "content": content }, "finish_reason": "stop" });
            assert_eq!(silence(choice), nothing("the answer is empty"));
        }
        for content in ["", "<think>Let me look at both"] {
            let choice = json!({ "message": { "content": content }, "finish_reason": "length" });
            assert_eq!(silence(choice), Silence::CutOff);
        }
        let choice = json!({ "message": message, "finish_reason": "error", "error": { "message": "upstream failed" } });
        assert_eq!(silence(choice), nothing("the server failed: `upstream failed`"));
        let choice = json!({ "message": { "content": "1" }, "finish_reason": "error" });
        assert_eq!(silence(choice), nothing("the server failed: `null`"));
        let choice = json!({ "message": { "content": "", "refusal": "No." } });
        assert_eq!(silence(choice), Silence::Refused("`No.`".into()));
    }

    #[test]
    fn likelihoods_are_those_of_the_answer_and_not_of_its_thoughts() {
        let first = |tokens: Vec<Value>, text: &str| {
            let choice = json!({ "message": { "content": text }, "logprobs": { "content": tokens } });
            said(choice).unwrap().likelihoods.map(|likely| likely[0].0.clone())
        };
        let thinks = vec![token("1"), token("?"), token("</think>"), token("\n"), token("2")];
        assert_eq!(first(thinks.clone(), "1?</think>\n2").as_deref(), Some("2"));
        // The server may show the thoughts' tokens and not their words.
        assert_eq!(first(thinks, "2").as_deref(), Some("2"));
        assert_eq!(first(vec![token("1"), token("?")], "2"), None);
        assert_eq!(first(vec![token(" "), token("1")], "1").as_deref(), Some("1"));
        assert_eq!(first(vec![], "1"), None);
    }
}
