//! What a judge's folder holds, by settings and headers alone.

use std::path::Path;

use super::{Message, Settings};
use crate::load::Placement;
use crate::{LoadError, ModelError, Weights};

/// The folder of a [`super::Vlm`] that was looked into, without its weights.
pub struct VlmInspection {
    settings: Settings,
    /// Numbers in the weights.
    pub parameters: u64,
}

impl VlmInspection {
    /// Reads every settings file, the tokenizer, and the headers of the weight files. Shapes of tensors are not compared.
    ///
    /// # Errors
    /// Any [`LoadError`].
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let parameters = Weights::open(dir, &Placement::cpu())?.parameters();
        Ok(Self {
            settings: Settings::read(dir)?,
            parameters,
        })
    }

    /// As [`super::Vlm::label_token`].
    ///
    /// # Errors
    /// [`ModelError::Value`] when the label is not exactly one token.
    pub fn label_token(&self, label: &str) -> Result<u32, ModelError> {
        self.settings.label_token(label)
    }

    /// How many images the model will expect for these messages.
    ///
    /// # Errors
    /// [`ModelError::Template`] and [`ModelError::Tokenize`].
    pub fn image_slots(&self, messages: &[Message]) -> Result<usize, ModelError> {
        let tokens = self.settings.tokenize(&self.settings.prompt(messages)?)?;
        let image = self.settings.config.image_token_id;
        Ok(tokens.iter().filter(|token| **token == image).count())
    }
}
