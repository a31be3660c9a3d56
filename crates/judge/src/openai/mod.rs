//! Servers that speak OpenAI's chat completions: vLLM, SGLang, llama.cpp, transformers, and hosted models.

mod client;
mod embed;
mod judge;
mod read;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gavel_core::ids::Digest;
use gavel_core::spec::ServerSpec;
use gavel_rubric::{AskError, Chat, ChatReply, ChatRequest, Judge, Message, Spent, Usage};
use image::RgbImage;
use serde_json::{Value, json};

use crate::Error;
use crate::open::{BackEnd, Models, OpenOptions};
use client::{Client, Failure};
use judge::EndpointJudge;
use wire::{Choice, Completion};

/// A model behind a server.
pub struct Endpoint {
    client: Client,
    base: String,
    model: String,
    name: String,
    identity: Digest,
    /// How far the server had to be met, for each kind of request: the place of what it accepted among what was tried.
    written: AtomicUsize,
    labelled: AtomicUsize,
    /// The name of the limit on tokens: an older and a newer one.
    limit: AtomicUsize,
}

/// The limit's names; newer hosted models refuse the first.
const LIMITS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

impl BackEnd for ServerSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(Digest::of(format!("openai {} {}", self.base(), self.model).as_bytes()))
    }

    fn judge(&self, options: &OpenOptions<'_>, _: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let endpoint = Arc::new(Endpoint::new(self)?);
        let template = options.template.clone();
        Ok(Box::new(EndpointJudge::new(
            endpoint,
            template,
            options.margin,
            self.concurrency,
        )))
    }

    fn chat(&self, _: &mut Models) -> Result<Box<dyn Chat>, Error> {
        Ok(Box::new(Endpoint::new(self)?))
    }

    fn concurrency(&self) -> usize {
        self.concurrency as usize
    }
}

impl Endpoint {
    /// A client for the server that the spec names. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Client`] when the key is missing or the address is none.
    pub fn new(spec: &ServerSpec) -> Result<Self, Error> {
        let base = spec.base().to_owned();
        let model = spec.model.clone();
        Ok(Self {
            client: Client::new(spec)?,
            name: format!("{model} at {base}"),
            identity: spec.fingerprint()?,
            base,
            model,
            written: AtomicUsize::new(0),
            labelled: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
        })
    }

    /// Asks the server which models it has, and says so.
    ///
    /// # Errors
    /// [`Error::Ask`] when it does not answer or wants another key.
    pub fn check(&self) -> Result<String, Error> {
        let models = self.client.models().map_err(|failure| failure.into_error(&self.base))?;
        Ok(match models {
            None => format!("{} answers and does not say which models it has", self.base),
            Some(models) if models.contains(&self.model) => format!("{} has `{}`", self.base, self.model),
            // Some servers load a model when it is first asked for, and name only what they have loaded.
            Some(models) => format!(
                "{} answers; `{}` is not among the {} models that it names",
                self.base,
                self.model,
                models.len()
            ),
        })
    }

    /// Asks with each of `ways` in turn, from the one that the server accepted last, until it does not object. What it accepts
    /// is remembered in `remembered`.
    fn ask(
        &self,
        request: &Value,
        max_tokens: u32,
        ways: &[Value],
        remembered: &AtomicUsize,
    ) -> Result<Choice, NoAnswer> {
        let mut first = None;
        let known = remembered.load(Ordering::Relaxed).min(ways.len() - 1);
        for (way, changes) in ways.iter().enumerate().skip(known) {
            match self.ask_one_way(request, max_tokens, changes) {
                Ok(completion) => {
                    if way != known {
                        tracing::info!(endpoint = self.base, way, "the server takes a simpler request");
                        remembered.store(way, Ordering::Relaxed);
                    }
                    return completion;
                }
                Err(failure) if failure.is_objection() => {
                    first.get_or_insert(failure);
                }
                Err(failure) => return Err(NoAnswer::Failed(failure.into_error(&self.base))),
            }
        }
        // Nothing was accepted, so the objection is to something else.
        let failure = first.unwrap_or_else(|| Failure::lasting("there was nothing to ask".into()));
        Err(NoAnswer::Failed(failure.into_error(&self.base)))
    }

    fn ask_one_way(
        &self,
        request: &Value,
        max_tokens: u32,
        changes: &Value,
    ) -> Result<Result<Choice, NoAnswer>, Failure> {
        let limit = self.limit.load(Ordering::Relaxed);
        let sent = |limit: usize| {
            let mut request = request.clone();
            request[LIMITS[limit]] = max_tokens.into();
            for (key, value) in changes.as_object().into_iter().flatten() {
                request[key] = value.clone();
            }
            self.client.complete(&request)
        };
        let completion = match sent(limit) {
            Err(failure) if failure.is_objection() && limit == 0 && failure.reason.contains(LIMITS[1]) => {
                let completion = sent(1)?;
                self.limit.store(1, Ordering::Relaxed);
                completion
            }
            completion => completion?,
        };
        Ok(choice(completion))
    }

    fn request(&self, messages: &[Message], images: &[&RgbImage]) -> Result<Value, AskError> {
        let messages = wire::messages(messages, images).map_err(|error| AskError::Unanswerable {
            reason: format!("a picture cannot be written as PNG: {error}"),
            hint: None,
        })?;
        Ok(json!({ "model": self.model, "messages": messages, "temperature": 0.0 }))
    }
}

/// Why a request that the server took gives no answer.
#[derive(Debug, Clone, PartialEq)]
enum NoAnswer {
    /// The model does not want to answer.
    Refused(String),
    Failed(AskError),
}

impl From<AskError> for NoAnswer {
    fn from(error: AskError) -> Self {
        Self::Failed(error)
    }
}

fn choice(completion: Completion) -> Result<Choice, NoAnswer> {
    let Some(mut choice) = completion.choices.into_iter().next() else {
        return Err(NoAnswer::Refused("an answer without words".into()));
    };
    choice.tokens = completion.usage;
    if let Some(refusal) = choice.message.refusal.as_deref().filter(|refusal| !refusal.is_empty()) {
        return Err(NoAnswer::Refused(read::excerpt(refusal)));
    }
    if choice.finish_reason.as_deref() == Some("content_filter") {
        return Err(NoAnswer::Refused("the server's content filter".into()));
    }
    Ok(choice)
}

/// Ways to ask for JSON, the strictest first.
fn json_ways(schema: &Value) -> Vec<Value> {
    vec![
        json!({ "response_format": {
            "type": "json_schema",
            "json_schema": { "name": "answer", "strict": true, "schema": schema },
        } }),
        json!({ "response_format": { "type": "json_object" } }),
        json!({}),
    ]
}

impl Chat for Endpoint {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let mut body = self.request(request.messages, request.images)?;
        body["temperature"] = request.temperature.into();
        if request.temperature > 0.0 {
            body["seed"] = request.seed.into();
        }
        let ways = request.schema.map_or_else(|| vec![json!({})], json_ways);
        // Said in words as well: not every server that takes a schema holds the model to it.
        if let Some(schema) = request.schema {
            say_schema(&mut body, schema);
        }
        let choice = self
            .ask(&body, request.max_tokens, &ways, &self.written)
            .map_err(|asked| match asked {
                NoAnswer::Failed(error) => error,
                NoAnswer::Refused(words) => AskError::Unanswerable {
                    reason: format!("{}: the model refuses to answer: {words}", self.name),
                    hint: None,
                },
            })?;
        Ok(ChatReply {
            text: choice.message.text(),
            complete: choice.finish_reason.as_deref() != Some("length"),
            usage: choice.tokens.map_or_else(Usage::default, |tokens| Usage {
                prompt_tokens: tokens.prompt_tokens,
                completion_tokens: tokens.completion_tokens,
            }),
        })
    }

    fn spent(&self) -> Spent {
        self.client.spent()
    }
}

fn say_schema(body: &mut Value, schema: &Value) {
    let words = format!("\nAnswer with one JSON object that fits this schema, and nothing else: {schema}");
    let Some(last) = body["messages"].as_array_mut().and_then(|messages| messages.last_mut()) else {
        return;
    };
    match &mut last["content"] {
        Value::String(text) => text.push_str(&words),
        Value::Array(parts) => parts.push(json!({ "type": "text", "text": words })),
        _ => {}
    }
}
