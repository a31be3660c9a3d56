//! What can go wrong when a picture is evaluated.

use gavel_core::Hint;

/// An evaluation that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// No evaluator has this name.
    #[error("`evaluation.evaluator` names `{name}`, which does not exist")]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// The evaluator does not understand the prompt.
    #[error("prompt `{prompt}` is not a scene: {problem}")]
    Prompt {
        /// The prompt.
        prompt: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The rules are made for another picture size.
    #[error("the picture is {width}x{height}, the `{evaluator}` rules read {expected}x{expected}")]
    Size {
        /// The evaluator.
        evaluator: &'static str,
        /// Width found.
        width: u32,
        /// Height found.
        height: u32,
        /// Side expected.
        expected: u32,
    },
}

impl Hint for EvalError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { .. } => {
                format!(
                    "use one of {}, or leave `evaluation.evaluator` out",
                    crate::EVALUATORS.join(", ")
                )
            }
            Self::Prompt { .. } => {
                "write it like `a red circle left of a blue square on a white background`, or leave \
                                    `evaluation.evaluator` out for other prompts"
                    .to_owned()
            }
            Self::Size { expected, .. } => {
                format!("set `sampling.width` and `sampling.height` to {expected}, or leave `evaluation.evaluator` out")
            }
        })
    }
}
