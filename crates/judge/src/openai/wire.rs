//! What goes over the wire: the part of OpenAI's chat completions that judges need.
//!
//! Answers are read leniently. Servers differ in what they leave out, and a field that is not needed must not fail a verdict.

use base64::Engine as _;
use gavel_rubric::{Message, Part};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};
use serde::Deserialize;
use serde_json::{Value, json};

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
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    let text = base64::engine::general_purpose::STANDARD.encode(png);
    Ok(format!("data:image/png;base64,{text}"))
}

/// An answer.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    pub(super) choices: Vec<Choice>,
    #[serde(default)]
    pub(super) usage: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    pub(super) message: Written,
    #[serde(default)]
    pub(super) finish_reason: Option<String>,
    /// Read only where likelihoods were asked for; its layout differs between servers.
    #[serde(default)]
    pub(super) logprobs: Value,
    /// What the whole answer took.
    #[serde(skip)]
    pub(super) tokens: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    content: Value,
    #[serde(default)]
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Tokens {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
}

impl Written {
    /// The words, also where a server sends them in parts.
    pub(super) fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }
}

/// The likeliest first tokens with their log-probabilities; `None` where the server shows none.
pub(super) fn first_token(logprobs: &Value) -> Option<Vec<(String, f64)>> {
    let tokens = logprobs["content"].as_array()?;
    // Some models begin with an empty or a blank token.
    let first = tokens
        .iter()
        .find(|token| token["token"].as_str().is_some_and(|text| !text.trim().is_empty()))?;
    let likely: Vec<(String, f64)> = first["top_logprobs"]
        .as_array()?
        .iter()
        .filter_map(|token| Some((token["token"].as_str()?.to_owned(), token["logprob"].as_f64()?)))
        .collect();
    (!likely.is_empty()).then_some(likely)
}

/// What the server says is wrong: OpenAI's `error.message`, FastAPI's `detail`, or the first words of whatever it sent.
pub(super) fn error_text(body: &[u8]) -> String {
    const WORDS: usize = 300;
    let text = String::from_utf8_lossy(body);
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|value| {
        let places = [
            &value["error"]["message"],
            &value["message"],
            &value["error"],
            &value["detail"],
        ];
        let found = places.into_iter().find(|place| !place.is_null())?;
        Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
    });
    let text = said.unwrap_or_else(|| text.into_owned());
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
