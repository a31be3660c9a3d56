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
    /// The evaluator does not understand the instruction.
    #[error("prompt `{prompt}` is not an edit of a scene: {problem}")]
    Instruction {
        /// The prompt.
        prompt: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An edit has another number of source pictures than the rules read.
    #[error("prompt `{prompt}` has {found} source pictures, the `{evaluator}` rules read one")]
    Sources {
        /// The prompt.
        prompt: String,
        /// The evaluator.
        evaluator: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The rules are made for another size of the source picture.
    #[error(
        "prompt `{prompt}`: the source picture is {width}x{height}, the `{evaluator}` rules read {expected}x{expected}"
    )]
    SourceSize {
        /// The prompt.
        prompt: String,
        /// The evaluator.
        evaluator: &'static str,
        /// Width found.
        width: u32,
        /// Height found.
        height: u32,
        /// Side expected.
        expected: u32,
    },
    /// The source picture is not one that the instruction can be meant for.
    #[error("prompt `{prompt}`: the source picture {problem}")]
    Source {
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

impl EvalError {
    /// A wrong size as that of a prompt's source picture; any other error as it is.
    pub(crate) fn of_the_source(self, prompt: &str) -> Self {
        match self {
            Self::Size {
                evaluator,
                width,
                height,
                expected,
            } => Self::SourceSize {
                prompt: prompt.to_owned(),
                evaluator,
                width,
                height,
                expected,
            },
            other => other,
        }
    }
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
            Self::Instruction { .. } => {
                "write it like `make the red circle blue`, `make the background pink`, `remove the red circle`, \
                 `add a blue square on the right` or `replace the red circle with a blue square`, or leave \
                 `evaluation.evaluator` out for other edits"
                    .to_owned()
            }
            Self::Sources { .. } => {
                "name the one picture that is edited in `sources`, or leave `evaluation.evaluator` out for other edits"
                    .to_owned()
            }
            Self::SourceSize { expected, .. } => {
                format!("give a source picture of {expected}x{expected} pixels, or leave `evaluation.evaluator` out")
            }
            Self::Source { .. } => {
                "give the picture that the instruction is meant for: one or two flat shapes of different \
                 colours on a flat background, or leave `evaluation.evaluator` out for other pictures"
                    .to_owned()
            }
            Self::Size { expected, .. } => {
                format!("set `sampling.width` and `sampling.height` to {expected}, or leave `evaluation.evaluator` out")
            }
        })
    }
}
