//! Why weights cannot be learnt.

use gavel_core::Hint;

use crate::AskError;

/// Weights that cannot be learnt.
#[derive(Debug, thiserror::Error)]
pub enum WeighError {
    /// The judge does not answer.
    #[error("the weighing stopped: a question got no answer")]
    Ask(#[from] AskError),
    /// The pictures have scores.
    #[error("weights are learnt from ranked pictures, these have scores")]
    Scored,
    /// No pair was judged under all criteria.
    #[error("none of {failed} pairs could be judged under every criterion")]
    NoPairs {
        /// The pairs.
        failed: usize,
    },
    /// There is nothing to leave out.
    #[error("all pairs are of one prompt, and lambda is tried on prompts that are left out")]
    OnePrompt,
    /// Every criterion leans to the worse pictures, or to none.
    #[error("no criterion leans to the pictures that people preferred")]
    NothingLeans,
    /// All weights are 0.
    #[error("at lambda {lambda} no criterion has a weight above 0")]
    NothingCounts {
        /// As it was given or found.
        lambda: f64,
    },
    /// The weights grow and grow.
    #[error(
        "at lambda {lambda} the weights do not settle: the conditions of the best ones are violated by {violation:e}"
    )]
    Unsettled {
        /// As it was given or found.
        lambda: f64,
        /// By how much.
        violation: f64,
    },
}

impl Hint for WeighError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Ask(error) => return error.hint(),
            Self::Scored => "give records with two or more pictures and `label_rank`".to_owned(),
            Self::NoPairs { .. } => "look with `gavel judge` at what the judge says of one of them".to_owned(),
            Self::OnePrompt => "give pairs of several prompts, or lambda itself with --lambda".to_owned(),
            Self::NothingLeans => {
                "try the judge on the pairs with `gavel rubric check`; it may not follow criteria, or the labels may be wrong"
                    .to_owned()
            }
            Self::NothingCounts { .. } => "give a smaller lambda, or leave --lambda out".to_owned(),
            Self::Unsettled { .. } => "give a greater lambda with --lambda".to_owned(),
        })
    }
}
