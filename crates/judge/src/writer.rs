//! A model in this process that writes.

use std::sync::Arc;

use gavel_core::ids::Digest;
use gavel_core::work::Usage;
use gavel_models::ModelError;
use gavel_models::vlm::{Generation, Vlm};
use gavel_rubric::{AskError, Chat, ChatReply, ChatRequest};

use crate::Error;
use crate::question::Question;
use crate::thoughts;
use crate::vlm::Prompt;

/// A frozen model in this process, asked for words. A JSON Schema is enforced token by token.
pub struct VlmWriter {
    name: String,
    identity: Digest,
    model: Arc<Vlm>,
}

impl VlmWriter {
    /// `name` and `fingerprint` are those of the folder that `model` was loaded from.
    pub fn new(name: String, fingerprint: Digest, model: Arc<Vlm>) -> Self {
        Self {
            name,
            identity: Digest::of(format!("writer {fingerprint}").as_bytes()),
            model,
        }
    }
}

impl Chat for VlmWriter {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> Digest {
        self.identity
    }

    fn reply(&self, request: &ChatRequest<'_>) -> Result<ChatReply, AskError> {
        let question = Question {
            messages: request.messages.to_vec(),
            images: request.images.to_vec(),
        };
        let generation = Generation {
            max_tokens: request.max_tokens as usize,
            temperature: request.temperature,
            seed: request.seed,
            schema: request.schema,
            ..Generation::default()
        };
        let prompt = Prompt::of(&question);
        let written = self
            .model
            .generate(&prompt.conversation(), &generation)
            .map_err(|error: ModelError| AskError::unanswerable(&Error::from(error)))?;
        Ok(ChatReply {
            text: thoughts::answer(&written.text).to_owned(),
            complete: written.complete,
            usage: Usage {
                prompt_tokens: written.prompt_tokens as u64,
                completion_tokens: written.completion_tokens as u64,
            },
        })
    }
}
