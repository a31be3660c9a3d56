//! Servers that speak OpenAI's chat completions: vLLM, SGLang, llama.cpp, transformers, and hosted models.

mod client;
mod dialect;
mod embed;
mod failure;
mod judge;
mod proxy;
mod read;
mod wire;
mod words;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gavel_core::ids::Digest;
use gavel_core::spec::{ServerFamily, ServerSpec};
use gavel_core::work::{Spent, Usage};
use gavel_rubric::{AskError, Chat, ChatReply, ChatRequest, Judge, Message};
use image::RgbImage;
use serde_json::{Value, json};

use crate::open::{BackEnd, Models, OpenOptions};
use crate::{Error, WeighingJudge};
pub(crate) use client::Client;
use dialect::{Dialect, Wishes};
pub(crate) use failure::{Failure, Kind};
use judge::EndpointJudge;
pub(crate) use proxy::Proxies;
pub(crate) use wire::png_base64;
use wire::{Completion, Said, Silence};
pub(crate) use words::Body;

/// How often a question is asked whose answer says nothing.
const ANSWERS: u32 = 3;
/// Room for the thoughts of a model that thinks before it answers, when it turns out to.
const THOUGHTS: [u32; 2] = [512, 4096];

/// A model behind a server.
pub struct Endpoint {
    client: Client,
    base: String,
    model: String,
    name: String,
    identity: Digest,
    /// What the server was found to take.
    dialect: Mutex<Dialect>,
    /// How many tokens written answers were found to need.
    written: Room,
}

/// How many tokens an answer may have: the first of these bounds, and after an answer that was cut off the next. What was
/// enough once is where the next question begins.
#[derive(Default)]
struct Room(AtomicUsize);

impl Room {
    fn place(&self, bounds: &[u32]) -> usize {
        self.0.load(Ordering::Relaxed).min(bounds.len().saturating_sub(1))
    }

    fn was_enough(&self, place: usize) {
        self.0.fetch_max(place, Ordering::Relaxed);
    }
}

/// A question to the server.
struct Asked<'a> {
    /// Model and messages.
    body: Value,
    wishes: Wishes,
    bounds: &'a [u32],
    room: &'a Room,
}

impl BackEnd for ServerSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        let base = self.connection().base();
        Ok(Digest::of(format!("openai {base} {}", self.model).as_bytes()))
    }

    fn judge(&self, options: &OpenOptions<'_>, _: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let endpoint = Arc::new(Endpoint::new(self)?);
        let template = options.template.clone();
        let judge = EndpointJudge::new(endpoint, template, options.margin, self.concurrency);
        Ok(Box::new(WeighingJudge::new(Box::new(judge), options.margin)))
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
        // A second protocol is chosen here: this does not compile until it is.
        let ServerFamily::Openai = spec.family;
        Self::with_client(spec, Client::new(spec, &Proxies::from_env())?)
    }

    fn with_client(spec: &ServerSpec, client: Client) -> Result<Self, Error> {
        let (base, model) = (spec.connection().base().to_owned(), spec.model.clone());
        Ok(Self {
            client,
            name: format!("{model} at {base}"),
            identity: spec.fingerprint()?,
            base,
            model,
            dialect: Mutex::default(),
            written: Room::default(),
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

    /// Asks until `read` understands the answer: again after one that is empty, cut off or of another form, with longer and
    /// longer pauses and more room where there was too little. The inner error of `read` says what is wrong with an answer.
    fn ask<T>(&self, mut asked: Asked<'_>, read: impl Fn(&Said) -> Result<T, String>) -> Result<T, NoAnswer> {
        let seed = asked.wishes.seed;
        let mut place = asked.room.place(asked.bounds);
        let mut nothing = String::new();
        for attempt in 0..ANSWERS {
            if attempt > 0 {
                tracing::warn!(
                    reason = nothing,
                    model = self.name,
                    "an answer that says nothing: asking again"
                );
                self.client.pause(attempt);
                // A server that computes the same again must not compute the same again.
                asked.wishes.seed = Some(seed.unwrap_or_default() + u64::from(attempt));
            }
            let bound = asked.bounds[place];
            asked.wishes.limit = Some(bound);
            let is_complete = match self.once(&asked)? {
                Err(Silence::Refused(words)) => return Err(NoAnswer::Silent(format!("the judge refused: {words}"))),
                Err(Silence::Nothing(reason)) => {
                    nothing = reason;
                    true
                }
                Err(Silence::CutOff) => {
                    nothing = "the answer had not begun".into();
                    false
                }
                Ok(said) => match read(&said) {
                    Ok(answer) => {
                        asked.room.was_enough(place);
                        return Ok(answer);
                    }
                    Err(reason) => {
                        nothing = reason;
                        said.complete
                    }
                },
            };
            if !is_complete {
                nothing += &format!(" (cut off after {bound} tokens)");
                place = (place + 1).min(asked.bounds.len() - 1);
            }
        }
        Err(NoAnswer::Silent(nothing))
    }

    /// One answer, or why it says nothing.
    fn once(&self, asked: &Asked<'_>) -> Result<Result<Said, Silence>, NoAnswer> {
        let answer = self.accepted(&asked.body, &asked.wishes, |request| self.client.complete(request));
        let answer = answer.map_err(|failure| match failure.kind {
            Kind::TooLong => {
                tracing::warn!(said = %failure.said, "a question that the judge's server does not take");
                NoAnswer::Silent(failure.told())
            }
            _ => NoAnswer::Failed(failure.into_error(&self.base)),
        })?;
        // What is wrong with the form would quote the server.
        let unreadable = |_| Err(Silence::Nothing("the answer is no chat completion".into()));
        Ok(serde_json::from_value(answer).map_or_else(unreadable, Completion::said))
    }

    /// Sends a request in the words that the server takes, and finds out which these are.
    fn accepted(
        &self,
        body: &Value,
        wishes: &Wishes,
        send: impl Fn(&Value) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let mut dialect = *self.known_dialect();
        let mut first = None;
        loop {
            match send(&dialect.write(body, wishes)) {
                Ok(answer) => {
                    for parameter in self.known_dialect().learn(&dialect) {
                        tracing::warn!(
                            model = self.name,
                            ?parameter,
                            "the server refuses a parameter: it is asked without"
                        );
                    }
                    return Ok(answer);
                }
                Err(failure) if failure.is_objection() => match dialect.without(&failure.named, wishes) {
                    Some(simpler) => {
                        dialect = simpler;
                        first.get_or_insert(failure);
                    }
                    // Nothing was accepted, so the objection is to something else.
                    None => return Err(first.unwrap_or(failure)),
                },
                Err(failure) => return Err(failure),
            }
        }
    }

    fn known_dialect(&self) -> std::sync::MutexGuard<'_, Dialect> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Model and messages of a request.
    fn body(&self, messages: &[Message], images: &[&RgbImage]) -> Result<Value, AskError> {
        let messages = wire::messages(messages, images).map_err(|error| AskError::Unanswerable {
            reason: format!("a picture cannot be written as PNG: {error}"),
            hint: None,
            said: None,
        })?;
        Ok(json!({ "model": self.model, "messages": messages }))
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq)]
enum NoAnswer {
    /// The server was asked, and this question has none: in words that may be told.
    Silent(String),
    Failed(AskError),
}

impl Chat for Endpoint {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let mut body = self.body(request.messages, request.images)?;
        // Said in words as well: not every server that takes a schema holds the model to it.
        if let Some(schema) = request.schema {
            say_schema(&mut body, schema);
        }
        let most = request.max_tokens;
        let asked = Asked {
            body,
            wishes: Wishes {
                temperature: Some(request.temperature),
                seed: (request.temperature > 0.0).then_some(request.seed),
                schema: request.schema.cloned(),
                ..Wishes::default()
            },
            // More than what was asked for only where a model's thoughts leave nothing of it.
            bounds: &[most, most.max(THOUGHTS[0]), most.max(THOUGHTS[1])],
            room: &self.written,
        };
        let reply = |said: &Said| {
            Ok(ChatReply {
                text: said.text.clone(),
                complete: said.complete,
                usage: said.tokens.map_or_else(Usage::default, |tokens| Usage {
                    prompt_tokens: tokens.prompt_tokens,
                    completion_tokens: tokens.completion_tokens,
                }),
            })
        };
        self.ask(asked, reply).map_err(|asked| match asked {
            NoAnswer::Failed(error) => error,
            NoAnswer::Silent(reason) => AskError::Unanswerable {
                reason: format!("{}: {reason}", self.name),
                hint: None,
                said: None,
            },
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
