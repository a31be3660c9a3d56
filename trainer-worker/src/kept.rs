//! The group that exchanged gradient sums last, kept for the next step's commit.
//!
//! A member has it if and only if every exchange that it began in it has succeeded; and nobody begins one before every member has
//! said, under the commit's own lease, that it has it. So all are between two exchanges when one begins, and no member's numbers
//! meet those of another commit.

use std::time::{Duration, Instant};

use gavel_core::ids::WorkerId;
use gavel_core::spec::Device;
use gavel_core::work::rally::Group;

use crate::exchange::Communicator;

/// How long after its last exchange a group is offered to the others again. What lies between the machines may have forgotten
/// connections that were silent for longer.
const OFFERED_FOR: Duration = Duration::from_secs(600);

/// At most one group: whoever joins another one lets go of it.
#[derive(Default)]
pub(crate) struct Kept(Option<KeptGroup>);

struct KeptGroup {
    rendezvous: Vec<u8>,
    /// By name.
    members: Vec<WorkerId>,
    device: Device,
    used: Instant,
    communicator: Box<dyn Communicator>,
}

impl Kept {
    /// The rendezvous of the kept group, where these members may use it again for work on this device.
    pub(crate) fn offer(&self, members: &[WorkerId], device: Device, now: Instant) -> Option<Vec<u8>> {
        let kept = self.0.as_ref()?;
        let is_fresh = now.saturating_duration_since(kept.used) < OFFERED_FOR;
        let fits = kept.members == by_name(members) && kept.device == device && is_fresh;
        fits.then(|| kept.rendezvous.clone())
    }

    /// Whether this is the kept group.
    pub(crate) fn has(&self, group: &Group, device: Device) -> bool {
        self.0.as_ref().is_some_and(|kept| {
            kept.rendezvous == group.rendezvous && kept.members == by_name(&group.members) && kept.device == device
        })
    }

    /// Takes the communicator out, for one exchange. Any other group than this one is let go of.
    pub(crate) fn take(&mut self, group: &Group, device: Device) -> Option<Box<dyn Communicator>> {
        let is_kept = group.kept && self.has(group, device);
        self.0.take().filter(|_| is_kept).map(|kept| kept.communicator)
    }

    /// Keeps a group whose exchange has succeeded.
    pub(crate) fn keep(&mut self, group: &Group, device: Device, communicator: Box<dyn Communicator>, now: Instant) {
        self.0 = Some(KeptGroup {
            rendezvous: group.rendezvous.clone(),
            members: by_name(&group.members),
            device,
            used: now,
            communicator,
        });
    }

    pub(crate) fn let_go(&mut self) {
        self.0 = None;
    }
}

/// Ranks follow the names, whoever calls.
fn by_name(members: &[WorkerId]) -> Vec<WorkerId> {
    let mut members = members.to_vec();
    members.sort();
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{ExchangeError, Parts, Watch};

    struct Silent;

    impl Communicator for Silent {
        fn scatter(
            &mut self,
            _: &Parts<'_>,
            _: &mut [f32],
            _: &mut dyn FnMut(),
            _: &Watch<'_>,
        ) -> Result<(), ExchangeError> {
            Err(ExchangeError::Cancelled)
        }

        fn gather(&mut self, _: &[f32], _: &mut [f32], _: &Watch<'_>) -> Result<(), ExchangeError> {
            Err(ExchangeError::Cancelled)
        }
    }

    fn group(members: &[&str], rendezvous: u8, kept: bool) -> Group {
        Group {
            members: members.iter().map(|name| WorkerId((*name).into())).collect(),
            rendezvous: vec![rendezvous],
            kept,
        }
    }

    const DEVICE: Device = Device::Cuda(0);

    fn kept(now: Instant) -> Kept {
        let mut kept = Kept::default();
        kept.keep(&group(&["b", "a"], 1, false), DEVICE, Box::new(Silent), now);
        kept
    }

    #[test]
    fn a_group_is_offered_to_the_same_members_whoever_calls_until_it_is_old() {
        let now = Instant::now();
        let kept = kept(now);
        let offered = |members: &[&str], device, now| kept.offer(&group(members, 0, false).members, device, now);
        assert_eq!(offered(&["b", "a"], DEVICE, now), Some(vec![1]));
        assert_eq!(offered(&["a", "b"], DEVICE, now), Some(vec![1]));
        assert_eq!(offered(&["a"], DEVICE, now), None);
        assert_eq!(offered(&["a", "b", "c"], DEVICE, now), None);
        assert_eq!(offered(&["a", "b"], Device::Cuda(1), now), None);
        assert_eq!(offered(&["a", "b"], DEVICE, now + OFFERED_FOR), None);
        assert_eq!(Kept::default().offer(&[], DEVICE, now), None);
    }

    #[test]
    fn a_group_is_out_of_reach_during_its_exchange_and_gone_when_another_is_joined() {
        let now = Instant::now();
        let mut kept = kept(now);
        let again = group(&["a", "b"], 1, true);
        assert!(kept.has(&again, DEVICE));
        assert!(kept.take(&again, DEVICE).is_some());
        assert!(!kept.has(&again, DEVICE), "a failed exchange leaves nothing to be kept");

        for other in [
            group(&["a", "b"], 1, false),
            group(&["a", "b"], 2, true),
            group(&["a", "c"], 1, true),
        ] {
            kept.keep(&again, DEVICE, Box::new(Silent), now);
            assert!(kept.take(&other, DEVICE).is_none());
            assert!(!kept.has(&again, DEVICE));
        }
    }
}
