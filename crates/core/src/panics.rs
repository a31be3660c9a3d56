//! Panics that end one piece of work and not the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A piece of work panicked: a defect of Gavel, whatever it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {message}")]
pub struct Panicked {
    /// What the panic said.
    pub message: String,
}

/// Does a piece of work. After a panic nobody knows what state it has left behind: what it had a mutable borrow of must not be
/// used any more.
///
/// # Errors
/// The work panicked.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked {
        message: words(panic.as_ref()),
    })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        assert_eq!(catch(|| 1), Ok(1));
        let number = 2;
        let told = [
            catch(|| panic!("an invariant does not hold")),
            catch(|| panic!("an invariant does not hold of {number}")),
            catch(|| std::panic::resume_unwind(Box::new(number))),
        ];
        let told = told.map(|caught: Result<(), Panicked>| caught.unwrap_err().to_string());
        assert_eq!(
            told,
            [
                "panicked: an invariant does not hold",
                "panicked: an invariant does not hold of 2",
                "panicked: no message"
            ]
        );
    }
}
