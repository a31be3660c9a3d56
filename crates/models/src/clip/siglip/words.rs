//! Prompts as SigLIP's tokenizers read them.

use std::path::Path;

use crate::text::PromptTokenizer;
use crate::{LoadError, ModelError};

/// A tokenizer with what its model was trained to see: words in small letters, padded to one length.
#[derive(Debug)]
pub(super) struct Words {
    tokenizer: PromptTokenizer,
    /// Whether words lose their punctuation, as SigLIP's do and SigLIP 2's do not.
    loses_punctuation: bool,
    length: usize,
}

impl Words {
    /// Reads the tokenizer of a folder, `tokenizer.json`, for so many tokens.
    pub(super) fn load(dir: &Path, length: usize) -> Result<Self, LoadError> {
        let (tokenizer, class) = PromptTokenizer::load_siglip(dir)?;
        Ok(Self {
            tokenizer,
            loses_punctuation: class.is_none_or(|class| class.starts_with("Siglip") && !class.starts_with("Siglip2")),
            length,
        })
    }

    /// The tokens of a prompt, as many as the model has positions.
    pub(super) fn tokens(&self, prompt: &str) -> Result<Vec<u32>, ModelError> {
        let words = prompt.to_lowercase();
        let words = match self.loses_punctuation {
            true => plain(&words),
            false => words,
        };
        self.tokenizer.encode(&words, self.length)
    }
}

/// Words without ASCII punctuation, with one space between them.
///
/// # Source
/// transformers `SiglipTokenizer.canonicalize_text`.
fn plain(words: &str) -> String {
    let letters: String = words.chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
    letters.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_goes_and_spaces_become_one() {
        assert_eq!(plain("  a red-hot \"cup\",\n on\ta tray!  "), "a redhot cup on a tray");
        assert_eq!(plain("caf\u{e9} \u{2014} bar"), "caf\u{e9} \u{2014} bar");
        assert_eq!(plain("...!"), "");
    }
}
