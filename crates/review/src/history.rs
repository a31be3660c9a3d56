//! What a ledger holds of a run, event by event: for those who look back.

use gavel_coordinator::ledger::{EventRecord, RunRecord};
use gavel_core::run::{Event, Run};
use gavel_core::spec::RunSpec;

use crate::Error;

/// What the ledger holds of a run.
#[derive(Debug, Clone)]
pub struct History {
    /// The run as it was submitted.
    pub record: RunRecord,
    /// Every accepted event, in order.
    pub events: Vec<EventRecord>,
}

impl History {
    /// The run before its first event.
    ///
    /// # Errors
    /// The ledger's spec or assets are not what this version knows.
    pub fn begin(&self) -> Result<Run, Error> {
        let unknown = |part| {
            let run = self.record.run.clone();
            move |source| Error::Record { run, part, source }
        };
        let spec = serde_json::from_str(&self.record.spec).map_err(unknown("spec"))?;
        let assets = serde_json::from_str(&self.record.assets).map_err(unknown("assets"))?;
        Ok(Run::new(self.record.run.clone(), spec, assets).created(self.record.created))
    }

    /// The specification with which the run ends: somebody may have changed how many steps it has.
    ///
    /// # Errors
    /// The ledger's spec is not what this version knows. Events that cannot be read change nothing here: who looks at them tells of
    /// them.
    pub fn present_spec(&self) -> Result<RunSpec, Error> {
        let mut spec = self.begin()?.spec().clone();
        let changes = self.events.iter().rev().filter(|stored| stored.kind == "steps_changed");
        let mut steps = changes.filter_map(|stored| match serde_json::from_str(&stored.event) {
            Ok(Event::StepsChanged { steps }) => Some(steps),
            _ => None,
        });
        spec.run.steps = steps.next().unwrap_or(spec.run.steps);
        Ok(spec)
    }

    /// Applies every event to the run, from its beginning; `before` sees each with the run that it is about to change, and
    /// `after` the run that it changed.
    ///
    /// # Errors
    /// An event that cannot be read or that does not apply.
    pub fn replay(
        &self,
        mut before: impl FnMut(&Run, &Event),
        mut after: impl FnMut(&Run, &Event),
    ) -> Result<Run, Error> {
        let mut run = self.begin()?;
        for stored in &self.events {
            let event: Event =
                serde_json::from_str(&stored.event).map_err(|error| self.inapplicable(stored, error.into()))?;
            before(&run, &event);
            run.apply(event.clone(), stored.at)
                .map_err(|refusal| self.inapplicable(stored, refusal.into()))?;
            after(&run, &event);
        }
        Ok(run)
    }

    fn inapplicable(&self, stored: &EventRecord, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Event {
            run: self.record.run.clone(),
            sequence: stored.sequence,
            source,
        }
    }
}
