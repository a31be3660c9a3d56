//! Where the driver's time comes from.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use gavel_core::ids::Millis;

/// Tells the time. It may go back; the driver's time does not.
pub(crate) struct Clock(Box<dyn Fn() -> Millis + Send>);

impl Clock {
    /// The machine's clock.
    pub(crate) fn system() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            Millis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
        })
    }

    /// A clock that says what `tell` says.
    pub(super) fn new(tell: impl Fn() -> Millis + Send + 'static) -> Self {
        Self(Box::new(tell))
    }

    pub(super) fn now(&self) -> Millis {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
