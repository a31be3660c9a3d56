//! Which GPU each worker of a local fleet has.

use gavel_core::spec::{Device, RunSpec};
use gavel_core::work::Role;

/// A worker that `gavel run` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) role: Role,
    /// Of a trainer that samples too, with the same weights.
    pub(crate) with_sampler: bool,
    /// Its number among those of its role.
    pub(crate) index: u32,
    /// The GPU that it is told to use; without one, what is on a GPU is on the one that the configuration names.
    pub(crate) gpu: Option<usize>,
}

impl Placed {
    /// Where the worker has what the configuration puts on `device`.
    pub(crate) fn device(&self, device: Device) -> Device {
        match (device, self.gpu) {
            (Device::Cuda(_), Some(gpu)) => Device::Cuda(gpu),
            (device, _) => device,
        }
    }
}

/// The processes of a run's local fleet, in the order in which they get their GPUs: judges, which are small and busy while trainers wait;
/// trainers, of which no two may share a GPU if they exchange gradients by NCCL; samplers, which wait while trainers work.
pub(crate) fn placed(spec: &RunSpec) -> Vec<Placed> {
    let fleet = &spec.fleet;
    let shared = if fleet.share_weights {
        fleet.samplers.min(fleet.trainers)
    } else {
        0
    };
    let process = |role, with_sampler| move |index| (role, index, with_sampler);
    let judges = (0..fleet.judges).map(process(Role::Judge, false));
    let sampling = (0..shared).map(process(Role::Trainer, true));
    let trainers = (shared..fleet.trainers).map(process(Role::Trainer, false));
    let samplers = (shared..fleet.samplers).map(process(Role::Sampler, false));
    let mut gpus = fleet.gpus.iter().copied().cycle();
    let place = |(role, index, with_sampler)| Placed {
        role,
        with_sampler,
        index,
        gpu: if spec.uses_gpu(role) { gpus.next() } else { None },
    };
    judges
        .chain(sampling)
        .chain(trainers)
        .chain(samplers)
        .map(place)
        .collect()
}

#[cfg(test)]
mod tests {
    use gavel_core::spec::{InProcessSpec, ServerSpec};

    use super::*;

    fn spec(gpus: &[usize]) -> RunSpec {
        let mut spec = RunSpec::default();
        spec.model.device = Device::Cuda(0);
        spec.judge.back_end = InProcessSpec {
            device: Device::Cuda(0),
            ..InProcessSpec::default()
        }
        .into();
        (spec.fleet.samplers, spec.fleet.judges, spec.fleet.trainers) = (2, 1, 2);
        spec.fleet.gpus = gpus.to_vec();
        spec
    }

    fn gpus(spec: &RunSpec) -> Vec<(&str, Option<usize>)> {
        let placed = placed(spec).into_iter();
        placed.map(|placed| (placed.role.name(), placed.gpu)).collect()
    }

    #[test]
    fn workers_get_gpus_in_turn_and_those_without_a_model_on_one_get_none() {
        let mut spec = spec(&[4, 5, 6]);
        assert_eq!(
            gpus(&spec),
            [
                ("judge", Some(4)),
                ("trainer", Some(5)),
                ("trainer", Some(6)),
                ("sampler", Some(4)),
                ("sampler", Some(5))
            ]
        );
        spec.judge.back_end = ServerSpec::default().into();
        assert_eq!(gpus(&spec)[..2], [("judge", None), ("trainer", Some(4))]);
    }

    #[test]
    fn a_trainer_samples_too_where_weights_are_shared() {
        let mut spec = spec(&[4, 5]);
        spec.fleet.share_weights = true;
        spec.fleet.samplers = 3;
        let processes: Vec<_> = placed(&spec)
            .iter()
            .map(|placed| (placed.role.name(), placed.index, placed.with_sampler, placed.gpu))
            .collect();
        assert_eq!(
            processes,
            [
                ("judge", 0, false, Some(4)),
                ("trainer", 0, true, Some(5)),
                ("trainer", 1, true, Some(4)),
                ("sampler", 2, false, Some(5))
            ]
        );
        (spec.fleet.samplers, spec.fleet.trainers) = (1, 2);
        let sampling: Vec<bool> = placed(&spec).iter().map(|placed| placed.with_sampler).collect();
        assert_eq!(sampling, [false, true, false]);
    }

    #[test]
    fn without_gpus_named_every_worker_does_as_the_configuration_says() {
        let spec = spec(&[]);
        assert!(placed(&spec).iter().all(|placed| placed.gpu.is_none()));
        assert_eq!(placed(&spec)[0].device(Device::Cuda(3)), Device::Cuda(3));
    }

    #[test]
    fn only_what_is_on_a_gpu_moves_to_the_worker_s() {
        let placed = placed(&spec(&[7]))[0];
        assert_eq!(placed.device(Device::Cuda(0)), Device::Cuda(7));
        assert_eq!(placed.device(Device::Cpu), Device::Cpu);
    }
}
