//! Scores by a server, in the words of docs/judges.md.

use gavel_core::bounds;
use gavel_core::ids::Digest;
use gavel_core::spec::ScorerSpec;
use gavel_core::work::Spent;
use gavel_rubric::{AskError, Chat, Judge, JudgedPair, threads};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::{ScoreJudge, Scorer, writes_nothing};
use crate::Error;
use crate::open::{BackEnd, Models, OpenOptions};
use crate::openai::{Body, Client, Failure, Kind, Proxies, png_base64};

/// The version of requests and answers.
const VERSION: u32 = 1;
/// How often a pair is sent whose answer holds no scores.
const ANSWERS: u32 = 3;
/// Width and height of the pictures by which a server is tried.
const TRIED_SIDE: u32 = 64;

/// A server that scores pictures.
pub struct ScoreServer {
    client: Client,
    base: String,
    name: String,
    identity: Digest,
    concurrency: usize,
}

impl BackEnd for ScorerSpec {
    fn fingerprint(&self) -> Result<Digest, Error> {
        Ok(Digest::of(format!("scorer {}", self.connection().base()).as_bytes()))
    }

    fn judge(&self, options: &OpenOptions<'_>, _: &mut Models) -> Result<Box<dyn Judge>, Error> {
        let server = ScoreServer::new(self)?;
        Ok(Box::new(ScoreJudge::new(server, self.temperature, options.margin)))
    }

    fn chat(&self, _: &mut Models) -> Result<Box<dyn Chat>, Error> {
        Err(writes_nothing())
    }

    fn concurrency(&self) -> usize {
        self.concurrency as usize
    }
}

impl ScoreServer {
    /// A client for the server that the spec names. Nothing is asked yet.
    ///
    /// # Errors
    /// [`Error::Client`] when the key is missing or the address is none.
    pub fn new(spec: &ScorerSpec) -> Result<Self, Error> {
        Self::with_client(spec, Client::of_scorer(spec, &Proxies::from_env())?)
    }

    pub(super) fn with_client(spec: &ScorerSpec, client: Client) -> Result<Self, Error> {
        let base = spec.connection().base().to_owned();
        Ok(Self {
            client,
            name: format!("scores of {base}"),
            identity: spec.fingerprint()?,
            base,
            concurrency: spec.concurrency as usize,
        })
    }

    /// Has the server score two grey pictures, and says that it does.
    ///
    /// # Errors
    /// [`Error::Ask`] when it does not answer, wants another key, or gives no scores.
    pub fn check(&self) -> Result<String, Error> {
        let [dark, light] = [64, 192].map(|level| RgbImage::from_pixel(TRIED_SIDE, TRIED_SIDE, Rgb([level; 3])));
        let request = request("a grey picture", &[&dark, &light], &[])?;
        let answer = self
            .client
            .scores(&request)
            .map_err(|failure| failure.into_error(&self.base))?;
        match read(&answer, 2) {
            Ok(_) => Ok(format!("{} scores pictures", self.base)),
            Err(reason) => Err(Error::Ask(AskError::Unanswerable {
                reason: format!("the judge's server at {}: {reason}", self.base),
                hint: Some("have it answer as docs/judges.md says, or correct `judge.endpoint`".into()),
                said: Some(answer.words()),
            })),
        }
    }

    /// The scores of one pair, asked for again where an answer holds none.
    fn pair(&self, pair: &JudgedPair<'_>) -> Result<Result<[f64; 2], String>, AskError> {
        if let Err(exceeded) = bounds::WORDS.check("prompt", pair.prompt.len()) {
            return Ok(Err(exceeded.to_string()));
        }
        let sources: Vec<&RgbImage> = pair.sources.iter().collect();
        let request = request(pair.prompt, &[pair.first, pair.second], &sources)?;
        let mut nothing = String::new();
        for attempt in 0..ANSWERS {
            if attempt > 0 {
                tracing::warn!(
                    reason = nothing,
                    judge = self.name,
                    "an answer without scores: asking again"
                );
                self.client.pause(attempt);
            }
            match self.client.scores(&request) {
                Ok(answer) => match read(&answer, 2).as_deref() {
                    Ok(scores) => match scores {
                        [first, second] => return Ok(Ok([*first, *second])),
                        _ => nothing = "the answer does not have two scores".into(),
                    },
                    Err(reason) => nothing.clone_from(reason),
                },
                Err(failure) if is_of_the_pair(&failure) => {
                    tracing::warn!(said = %failure.said, "a pair that the judge's server does not score");
                    return Ok(Err(failure.told()));
                }
                Err(failure) => return Err(failure.into_error(&self.base)),
            }
        }
        Ok(Err(nothing))
    }
}

/// Whether the server takes other pairs, and does not take this one.
fn is_of_the_pair(failure: &Failure) -> bool {
    failure.kind == Kind::TooLong || failure.is_objection()
}

/// Pictures are PNG in base64, so that the server sees the very pixels.
fn request(prompt: &str, images: &[&RgbImage], sources: &[&RgbImage]) -> Result<Value, AskError> {
    let written = |images: &[&RgbImage]| -> Result<Vec<String>, AskError> {
        let png = images.iter().map(|image| png_base64(image));
        png.collect::<Result<_, _>>().map_err(|error| AskError::Unanswerable {
            reason: format!("a picture cannot be written as PNG: {error}"),
            hint: None,
            said: None,
        })
    };
    Ok(json!({ "version": VERSION, "prompt": prompt, "images": written(images)?, "sources": written(sources)? }))
}

/// The scores in an answer about so many pictures, which have to be numbers.
///
/// # Errors
/// Says what is wrong with the answer, without a word of it.
fn read(answer: &Body, count: usize) -> Result<Vec<f64>, String> {
    let Body::Json(answer) = answer else {
        return Err("the answer is no JSON; numbers that are not finite are none".into());
    };
    let Some(scores) = answer["scores"].as_array() else {
        return Err("the answer has no list `scores`".into());
    };
    if scores.len() != count {
        return Err(format!("the answer has {} scores for {count} pictures", scores.len()));
    }
    let scores: Option<Vec<f64>> = scores.iter().map(Value::as_f64).collect();
    scores.ok_or_else(|| "a score of the answer is no number".into())
}

impl Scorer for ScoreServer {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn scores(&self, pairs: &[JudgedPair<'_>]) -> Result<Vec<Result<[f64; 2], String>>, AskError> {
        threads::map(self.concurrency, pairs, |_, pair| self.pair(pair))
    }

    fn spent(&self) -> Spent {
        self.client.spent()
    }
}
