//! The error of a forward or backward pass.

/// What can go wrong while a loaded model computes.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An input does not fit the architecture.
    #[error("`{input}` has shape {found:?}, this model needs {expected}")]
    Shape {
        /// Name of the argument.
        input: &'static str,
        /// What the architecture takes, in words.
        expected: String,
        /// What was given.
        found: Vec<usize>,
    },
    /// An input has a value that the architecture cannot take.
    #[error("`{input}`: {problem}")]
    Value {
        /// Name of the argument.
        input: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The conditioning lacks a tensor that the denoiser reads.
    #[error("the conditioning has no tensor `{name}`")]
    ConditioningMissing {
        /// The tensor.
        name: String,
    },
    /// The conditioning holds a tensor that the denoiser does not read: it was made for another family.
    #[error("the conditioning has a tensor `{name}`, which this model does not read")]
    ConditioningUnread {
        /// The tensor.
        name: String,
    },
    /// The tokenizer refused a text.
    #[error("tokenizer: {0}")]
    Tokenize(String),
    /// The chat template failed.
    #[error("chat template")]
    Template(#[from] minijinja::Error),
    /// A tensor operation failed.
    #[error("tensor operation")]
    Candle(#[from] candle_core::Error),
}

/// A pass fails by what it is given, which whoever gives it knows better: there is no remedy to tell.
impl gavel_core::Hint for ModelError {}
