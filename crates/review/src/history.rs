//! What a ledger holds of a run, event by event: for those who look back.

use anyhow::Context as _;
use gavel_coordinator::ledger::{EventRecord, RunRecord};
use gavel_core::run::{Event, Run};

use crate::fault::Fault;

/// What the ledger holds of a run.
#[derive(Debug, Clone)]
pub(crate) struct History {
    /// The run as it was submitted.
    pub(crate) record: RunRecord,
    /// Every accepted event, in order.
    pub(crate) events: Vec<EventRecord>,
}

impl History {
    /// The run before its first event.
    ///
    /// # Errors
    /// The ledger's spec or assets are not what this version knows.
    pub(crate) fn begin(&self) -> anyhow::Result<Run> {
        let unknown = |part: &str| {
            Fault::new(format!("run `{}`: the ledger's {part} cannot be read", self.record.run))
                .with_hint("use the Gavel version that began the run")
        };
        let spec = serde_json::from_str(&self.record.spec).with_context(|| unknown("spec"))?;
        let assets = serde_json::from_str(&self.record.assets).with_context(|| unknown("assets"))?;
        Ok(Run::new(self.record.run.clone(), spec, assets).created(self.record.created))
    }

    /// Applies every event to the run, from its beginning; `before` sees each with the run that it is about to change, and
    /// `after` the run that it changed.
    ///
    /// # Errors
    /// An event that cannot be read or that does not apply.
    pub(crate) fn replay(
        &self,
        mut before: impl FnMut(&Run, &Event),
        mut after: impl FnMut(&Run, &Event),
    ) -> anyhow::Result<Run> {
        let mut run = self.begin()?;
        for stored in &self.events {
            let place = || {
                Fault::new(format!(
                    "run `{}`, event {}: the ledger holds an event that does not apply",
                    self.record.run, stored.sequence
                ))
                .with_hint("`gavel audit` lists everything that is wrong with the ledger")
            };
            let event: Event = serde_json::from_str(&stored.event).with_context(place)?;
            before(&run, &event);
            run.apply(event.clone(), stored.at).with_context(place)?;
            after(&run, &event);
        }
        Ok(run)
    }
}
