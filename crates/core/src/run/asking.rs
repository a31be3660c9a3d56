//! What is asked about a step's pairs: in which image orders, and what came of it.

use std::collections::BTreeSet;

use super::Run;
use crate::ids::{PromptIndex, Step};
use crate::rpo;
use crate::work::{AskedMatches, Orders, Unit, VerdictRecord, rules};

impl Run {
    /// The groups of a step, by their index, that are asked in both image orders although the judge has earned trust; `None` where all
    /// of them are. To be asked when the step begins: what it looks at is committed then.
    pub(super) fn rechecked(&self, step: Step) -> Option<BTreeSet<u32>> {
        let asked = |step: Step| self.results.steps.get(step.0.checked_sub(1)? as usize)?.record.asked;
        rules::is_trusted(&self.spec, step, asked).then(|| rules::rechecked_prompts(&self.spec, step))
    }

    /// In which image orders the judge is asked about a match; `number` is the match's in its group.
    pub(super) fn orders(&self, unit: &Unit, index: u32, number: usize) -> Orders {
        let Unit::Judge { step, .. } = *unit else {
            return Orders::Both;
        };
        let rechecked = self.flight(step).and_then(|flight| flight.rechecked.as_ref());
        match rechecked {
            Some(rechecked) if !rechecked.contains(&index) => {
                rules::one_order(&self.spec, step, PromptIndex(index), number)
            }
            _ => Orders::Both,
        }
    }

    /// What does not fit between the verdicts of a unit and how their pairs were to be asked. They are those of the unit's pairs, in
    /// order.
    pub(super) fn asked_otherwise(&self, unit: &Unit, verdicts: &[VerdictRecord]) -> Option<String> {
        let matches = rpo::match_count(usize::from(self.spec.sampling.candidates)).max(1);
        let mut numbered = verdicts.iter().enumerate();
        numbered.find_map(|(position, record)| {
            let orders = self.orders(unit, record.prompt_index.0, position % matches);
            let problem = rules::asked_otherwise(&self.spec.judge, unit, orders, record)?;
            Some(format!("pair {}: {problem}", record.prompt_index))
        })
    }

    /// How the matches of all steps were asked, those of steps in flight included; `None` where each is asked in both image orders.
    pub fn asked(&self) -> Option<AskedMatches> {
        self.spec.judge.counts_questions().then_some(self.asked)
    }
}
