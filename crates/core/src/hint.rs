//! What to do about an error.

/// An error that can tell its reader what to do next.
pub trait Hint {
    /// The remedy in one sentence, or `None` when the message already says it all.
    fn hint(&self) -> Option<String>;
}
