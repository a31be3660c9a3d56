//! The error of a forward or backward pass.

use candle_core::{DType, Tensor};

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
    /// A part of the model gave NaN or infinity.
    #[error("the {part} is not finite")]
    NotFinite {
        /// What was made, and by which part.
        part: &'static str,
    },
    /// A tensor operation failed.
    #[error("tensor operation")]
    Candle(#[from] candle_core::Error),
}

/// A pass fails by what it is given, which whoever gives it knows better, or by the weights.
impl gavel_core::Hint for ModelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFinite { .. } => Some(
                "the weights of this part are not finite, or its number format overflows: fetch its files again, or try bf16 or f32"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The tensor, if all of its numbers are finite; `part` says what it is and which part of the model made it.
///
/// # Errors
/// [`ModelError::NotFinite`].
pub(crate) fn finite<'t>(tensor: &'t Tensor, part: &'static str) -> Result<&'t Tensor, ModelError> {
    // Zero times NaN or infinity is NaN, where a plain sum might overflow.
    let probe = (tensor * 0.0)?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    match probe.is_finite() {
        true => Ok(tensor),
        false => Err(ModelError::NotFinite { part }),
    }
}
