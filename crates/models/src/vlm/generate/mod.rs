//! Writing text, token by token.

mod constraint;
mod sampler;
mod schema;

use serde_json::Value;

use super::{Conversation, Vlm, decoder::Prompt};
use crate::ModelError;
use constraint::Constraint;
pub(super) use constraint::Vocabulary;
use sampler::Sampler;

/// How text is written.
#[derive(Debug, Clone)]
pub struct Generation<'a> {
    /// The most tokens that are written; at least 1.
    pub max_tokens: usize,
    /// Divides the logits before a token is drawn; 0 takes the likeliest token.
    pub temperature: f64,
    /// Tokens are drawn from the fewest likeliest ones whose probabilities reach this, in (0, 1].
    pub top_p: f64,
    /// Seed of the draws: the same seed writes the same text.
    pub seed: u64,
    /// The JSON Schema that the text must conform to.
    ///
    /// At each token only those are allowed that leave the text a prefix of a conforming document. Objects hold only the
    /// properties that the schema names, in its order, unless it sets `additionalProperties`; integers are not written as
    /// `-0`; between the parts of a document stands at most one space.
    pub schema: Option<&'a Value>,
}

impl Default for Generation<'_> {
    /// Up to 256 tokens of free text, each the likeliest.
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            schema: None,
        }
    }
}

/// A text that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The text, without special tokens.
    pub text: String,
    /// Its token ids, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Whether the model ended the text, or the schema allowed nothing more. Otherwise `max_tokens` cut it.
    pub complete: bool,
    /// Tokens of the prompt, those of the images among them.
    pub prompt_tokens: usize,
    /// Tokens that were computed, the one that ended the text among them.
    pub completion_tokens: usize,
}

impl Vlm {
    /// Writes the answer to a conversation.
    ///
    /// Each token is computed from cached keys and values. The text depends neither on the number of threads nor on other
    /// conversations; it ends at a token that generation_config.json (or else config.json) names as the end.
    ///
    /// # Errors
    /// [`ModelError::Value`] for a setting out of its range and for a schema that cannot be used; otherwise as
    /// [`Vlm::next_token_logits_batch`].
    pub fn generate(&self, conversation: &Conversation, generation: &Generation) -> Result<Generated, ModelError> {
        if generation.max_tokens == 0 {
            return Err(ModelError::Value {
                input: "max_tokens",
                problem: "must be at least 1".to_owned(),
            });
        }
        let mut sampler = Sampler::new(generation)?;
        let mut constraint = generation
            .schema
            .map(|schema| Constraint::new(self.vocabulary()?, schema))
            .transpose()?;
        let seen = self.work().each(&conversation.images, |image| self.see(image))?;
        let images: Vec<_> = seen.iter().collect();
        let grids: Vec<_> = seen.iter().map(|image| image.grid).collect();
        let ids = self.expanded_ids(conversation.messages, &grids)?;
        let (mut state, mut cache) = self.decoder.start(&Prompt {
            ids: &ids,
            image_token: self.settings.config.image_token_id,
            images: &images,
        })?;
        let mut tokens = Vec::new();
        let mut completion_tokens = 0;
        let complete = loop {
            let mut logits: Vec<f32> = self.head.logits(&state)?.to_vec1()?;
            if let Some(constraint) = &mut constraint {
                constraint.mask(&mut logits)?;
            }
            let token = sampler.choose(&logits)?;
            completion_tokens += 1;
            if self.settings.eos_token_ids.contains(&token) {
                break true;
            }
            tokens.push(token);
            if let Some(constraint) = &mut constraint
                && constraint.take(token)?
            {
                break true;
            }
            if tokens.len() == generation.max_tokens {
                break false;
            }
            state = self.decoder.step(token, &mut cache)?;
        };
        Ok(Generated {
            text: self.decode(&tokens)?,
            tokens,
            complete,
            prompt_tokens: ids.len(),
            completion_tokens,
        })
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.settings
            .tokenizer
            .tokenizer()
            .decode(tokens, true)
            .map_err(|error| ModelError::Tokenize(error.to_string()))
    }

    fn vocabulary(&self) -> Result<&Vocabulary, ModelError> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let made = Vocabulary::new(&self.settings)?;
        Ok(self.vocabulary.get_or_init(|| made))
    }
}
