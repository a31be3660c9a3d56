//! Criteria as vectors.

use gavel_core::ids::Digest;

use crate::AskError;

/// Turns texts into vectors that lie close where the texts mean much the same.
pub trait Embed: Send + Sync {
    /// The embedding's name, for people and for records.
    fn name(&self) -> &str;

    /// Fingerprint of what embeds, under which a journal keeps the vectors. `None` for vectors that are made again for less than
    /// it takes to keep them.
    fn identity(&self) -> Option<Digest> {
        None
    }

    /// One vector for each text, in order, all with the same number of entries and each of length 1, or 0 for a text that says
    /// nothing.
    ///
    /// # Errors
    /// [`AskError`], after the back end's own attempts.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError>;
}

/// Counts of words and of runs of three letters, hashed into a vector of fixed length and scaled to length 1. It needs no
/// model; it sees common words and spelling, not meaning.
///
/// # Source
/// Feature hashing with signs: Weinberger et al., "Feature hashing for large scale multitask learning", 2009.
#[derive(Debug, Clone, Copy, Default)]
pub struct HashedNgrams;

/// Numbers in a vector.
const WIDTH: usize = 1024;

impl Embed for HashedNgrams {
    fn name(&self) -> &str {
        "hashed n-grams"
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f64>>, AskError> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

fn vector(text: &str) -> Vec<f64> {
    let mut vector = vec![0.0; WIDTH];
    let mut count = |feature: &str| {
        let hash = Digest::of(feature.as_bytes()).0;
        let place = usize::from(u16::from_le_bytes([hash[0], hash[1]])) % WIDTH;
        vector[place] += if hash[2] & 1 == 0 { 1.0 } else { -1.0 };
    };
    let lower = text.to_lowercase();
    for word in lower
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        count(&format!("word {word}"));
        // The blanks tell beginning and end. Scripts without spaces are one long word, of which the runs remain.
        let letters: Vec<char> = format!(" {word} ").chars().collect();
        for run in letters.windows(3) {
            count(&format!("run {}", run.iter().collect::<String>()));
        }
    }
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    vector
}

/// Cosine of the angle between two vectors; 0 where one of them is zero.
pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_texts_are_close() {
        let texts = [
            "The colours match the caption.",
            "Colours match what the caption says.",
            "Nothing is blurred.",
            "颜色与描述一致",
            "颜色与描述不一致",
        ];
        let vectors = HashedNgrams.embed(&texts).unwrap();
        let close = |a: usize, b: usize| cosine(&vectors[a], &vectors[b]);
        assert!((close(0, 0) - 1.0).abs() < 1e-12);
        assert!(close(0, 1) > 0.4 && close(0, 2) < 0.3 && close(3, 4) > 0.4 && close(0, 3).abs() < 0.3);
        assert_eq!(cosine(&vector("?!"), &vectors[0]), 0.0);
    }
}
