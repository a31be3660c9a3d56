//! Errors as people see them: what failed, why, and what to do about it.

use gavel_core::Hint;

/// An error of the command line itself: a message and its remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    message: String,
    hint: Option<String>,
}

impl Fault {
    /// What is wrong.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// What to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Hint for Fault {
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// The error with its causes and its remedy, ready to print.
pub(crate) fn render(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut before = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let message = cause.to_string();
        // A wrapper that repeats its cause has said it already.
        if depth > 0 && before.ends_with(&message) {
            continue;
        }
        let label = if depth == 0 { "error" } else { "caused by" };
        text += &format!("{label}: {}\n", message.trim_end().replace('\n', "\n  "));
        before = message;
    }
    if let Some(hint) = hint(error) {
        text += &format!("hint: {hint}\n");
    }
    text
}

/// The remedy that the outermost error with one gives.
fn hint(error: &anyhow::Error) -> Option<String> {
    of::<Fault>(error)
        .or_else(|| of::<gavel_core::spec::Problems>(error))
        .or_else(|| of::<gavel_core::forecast::CapacityError>(error))
        .or_else(|| of::<gavel_eval::EvalError>(error))
        .or_else(|| of::<gavel_rubric::AskError>(error))
        .or_else(|| of::<gavel_rubric::RubricError>(error))
        .or_else(|| of::<gavel_rubric::data::DataError>(error))
        .or_else(|| of::<gavel_rubric::generate::GenerateError>(error))
        .or_else(|| of::<gavel_rubric::JournalError>(error))
        .or_else(|| of::<gavel_rubric::TemplateError>(error))
        .or_else(|| of::<gavel_models::LoadError>(error))
        .or_else(|| of::<gavel_models::lora::LoraError>(error))
        .or_else(|| of::<gavel_models::tensor_file::TensorFileError>(error))
        .or_else(|| of::<gavel_sampler_worker::Error>(error))
        .or_else(|| of::<gavel_judge::Error>(error))
        .or_else(|| of::<gavel_trainer_worker::Error>(error))
        .or_else(|| of::<gavel_loadtest::Error>(error))
        .or_else(|| of::<gavel_trainer_worker::exchange::ExchangeError>(error))
        .or_else(|| of::<gavel_worker::Error>(error))
        .or_else(|| of::<gavel_client::AddressError>(error))
        .or_else(|| of::<gavel_client::ConnectError>(error))
        .or_else(|| of::<gavel_client::CallError>(error))
        .or_else(|| of::<gavel_coordinator::Error>(error))
        .or_else(|| of::<gavel_coordinator::ledger::LedgerError>(error))
        .or_else(|| of::<gavel_coordinator::blobs::BlobError>(error))
        .or_else(|| of::<gavel_coordinator::ReplayError>(error))
}

/// The remedy of an error of this type: given as context, or among the causes.
fn of<T: std::error::Error + Hint + Send + Sync + 'static>(error: &anyhow::Error) -> Option<String> {
    let as_context = error.downcast_ref::<T>().and_then(Hint::hint);
    as_context.or_else(|| {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<T>().and_then(Hint::hint))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_and_remedy_follow_the_error() {
        let cause = std::io::Error::other("disk on fire");
        let error =
            anyhow::Error::new(cause).context(Fault::new("cannot write `x`").with_hint("call the fire brigade"));
        assert_eq!(
            render(&error),
            "error: cannot write `x`\ncaused by: disk on fire\nhint: call the fire brigade\n"
        );
    }

    #[test]
    fn a_remedy_deeper_in_the_chain_is_found_and_repetition_is_not_printed() {
        let error = Err::<(), _>(Fault::new("empty").with_hint("fill it"))
            .context("empty")
            .unwrap_err();
        assert_eq!(render(&error), "error: empty\nhint: fill it\n");
    }
}
