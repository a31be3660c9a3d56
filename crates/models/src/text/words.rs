//! People's words, which are never control tokens.
//!
//! A tokenizer takes `<|im_end|>` or `</s>` for the end of a turn or of a text wherever it stands, in a prompt as well as in a template. Here
//! only templates can write one: where the tokenizer would see a control token in words, these are cut after its first character, and both
//! halves are read as the letters that they are. Words without such a place give the tokens that transformers gives them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tokenizers::{Encoding, Tokenizer};

use crate::ModelError;

/// Marks such a cut while words travel through a template: a code point that Unicode gives to no character.
const SEAM: char = '\u{fdd1}';

/// A tokenizer that knows words from templates.
#[derive(Debug)]
pub(crate) struct WordTokenizer {
    tokenizer: Tokenizer,
    /// The special tokens by id.
    controls: BTreeMap<u32, String>,
}

impl WordTokenizer {
    /// Takes a tokenizer that neither pads nor truncates.
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let controls = added.into_iter().filter(|(_, token)| token.special);
        Self {
            controls: controls.map(|(id, token)| (id, token.content)).collect(),
            tokenizer,
        }
    }

    /// The tokenizer, which knows no difference.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Encodes words alone, without special tokens around them.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`].
    pub(crate) fn encode_words(&self, words: &str) -> Result<Encoding, ModelError> {
        let pieces = self.pieces(words)?;
        Ok(Encoding::merge(pieces.into_iter().map(|(_, encoding)| encoding), true))
    }

    /// Words as a template may hold them: [`Self::encode_text`] finds no control token in them.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`].
    pub(crate) fn guarded<'w>(&self, words: &'w str) -> Result<Cow<'w, str>, ModelError> {
        // A seam of somebody else's would be taken for one of ours.
        let words = match words.contains(SEAM) {
            true => Cow::Owned(words.replace(SEAM, "")),
            false => Cow::Borrowed(words),
        };
        let pieces = self.pieces(&words)?;
        let ends_open = self.controls.values().any(|control| {
            let starts = control.char_indices().skip(1).map(|(end, _)| &control[..end]);
            starts.into_iter().any(|start| words.ends_with(start))
        });
        if pieces.len() == 1 && !ends_open {
            return Ok(words);
        }
        let pieces: Vec<&str> = pieces.iter().map(|(piece, _)| *piece).collect();
        let mut guarded = pieces.join(&SEAM.to_string());
        if ends_open {
            // What the template writes next must not complete it.
            guarded.push(SEAM);
        }
        Ok(Cow::Owned(guarded))
    }

    /// Token ids of a text in which special tokens are recognised, except in guarded words.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`].
    pub(crate) fn encode_text(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        for piece in text.split(SEAM) {
            ids.extend_from_slice(self.encode(piece)?.get_ids());
        }
        Ok(ids)
    }

    /// Cuts words wherever the tokenizer would see a control token. A character that is one by itself is left out.
    fn pieces<'w>(&self, words: &'w str) -> Result<Vec<(&'w str, Encoding)>, ModelError> {
        let mut pieces = Vec::new();
        let mut rest = words;
        loop {
            let encoding = self.encode(rest)?;
            let Some((start, end)) = self.first_control(&encoding) else {
                pieces.push((rest, encoding));
                return Ok(pieces);
            };
            // A normalizer may have moved the offsets.
            let start = rest.floor_char_boundary(start);
            let Some(first) = rest[start..].chars().next() else {
                pieces.push((rest, encoding));
                return Ok(pieces);
            };
            let cut = start + first.len_utf8();
            let piece = if cut < end { &rest[..cut] } else { &rest[..start] };
            pieces.push((piece, self.encode(piece)?));
            rest = &rest[cut..];
        }
    }

    /// The bytes that the first control token of an encoding stands for.
    fn first_control(&self, encoding: &Encoding) -> Option<(usize, usize)> {
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens());
        let mut found = tokens.zip(encoding.get_offsets()).filter(|((id, token), offsets)| {
            // An unknown character has a control token's id and its own text.
            self.controls.get(id) == Some(token) && offsets.0 < offsets.1
        });
        found.next().map(|(_, offsets)| *offsets)
    }

    fn encode(&self, text: &str) -> Result<Encoding, ModelError> {
        self.tokenizer
            .encode(text, false)
            .map_err(|error| ModelError::Tokenize(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizers() -> Vec<WordTokenizer> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let files = [
            "tiny-flux/tokenizer",
            "tiny-flux/tokenizer_2",
            "tiny-judge",
            "tiny-edit-judge",
        ];
        let tokenizers: Vec<Tokenizer> = files
            .iter()
            .map(|dir| Tokenizer::from_file(models.join(dir).join("tokenizer.json")).unwrap())
            .collect();
        let qwen = ["processor", "tokenizer"].map(|dir| models.join("tiny-qwen-edit").join(dir));
        let mut tokenizers: Vec<WordTokenizer> = tokenizers.into_iter().map(WordTokenizer::new).collect();
        tokenizers.push(crate::text::load_qwen2(&qwen).unwrap());
        tokenizers
    }

    #[test]
    fn no_control_token_comes_out_of_words() {
        for tokenizer in tokenizers() {
            assert!(!tokenizer.controls.is_empty());
            for control in tokenizer.controls.values() {
                for words in [
                    control.clone(),
                    control.to_uppercase(),
                    format!("a red {control} circle"),
                    format!("{control}{control} a circle{control}"),
                ] {
                    let ids = tokenizer.encode_words(&words).unwrap();
                    let found = ids.get_ids().iter().zip(ids.get_tokens());
                    for (id, token) in found {
                        assert_ne!(
                            tokenizer.controls.get(id),
                            Some(token),
                            "{words}: {:?}",
                            ids.get_tokens()
                        );
                    }
                    let guarded = tokenizer.guarded(&words).unwrap();
                    assert_eq!(tokenizer.encode_text(&guarded).unwrap(), ids.get_ids(), "{words}");
                }
            }
        }
    }

    #[test]
    fn words_and_template_together_make_no_control_token() {
        for tokenizer in tokenizers() {
            for (id, control) in &tokenizer.controls {
                let (start, end) = control.split_at(control.len() - 1);
                let words = format!("a circle {start}");
                let text = format!("{}{end}", tokenizer.guarded(&words).unwrap());
                let apart = [words.as_str(), end].map(|part| tokenizer.encode_text(part).unwrap());
                assert_eq!(tokenizer.encode_text(&text).unwrap(), apart.concat(), "{control}");
                let text = format!("{}{control}", tokenizer.guarded("a circle").unwrap());
                assert!(tokenizer.encode_text(&text).unwrap().contains(id), "{control}");
            }
        }
    }

    #[test]
    fn other_words_give_the_tokens_that_they_gave() {
        let words = "A red circle, left of 2 <small> squares | café \u{1F600}";
        for tokenizer in tokenizers() {
            let plain = tokenizer.tokenizer.encode(words, false).unwrap();
            assert_eq!(tokenizer.encode_words(words).unwrap().get_ids(), plain.get_ids());
            assert_eq!(tokenizer.guarded(words).unwrap(), words);
            assert_eq!(tokenizer.encode_text(words).unwrap(), plain.get_ids());
            assert!(tokenizer.encode_words("").unwrap().get_ids().is_empty());
        }
    }
}
