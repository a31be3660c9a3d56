//! The states of a batch on its way from noise to image.

use candle_core::{Device, Tensor};
use gavel_models::ModelError;
use gavel_models::load::Placement;

use super::step::Transition;
use crate::values::with_values;

/// The way of one candidate, as its trajectory keeps it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Way {
    /// (steps + 1, tokens, channels).
    pub(super) latents: Vec<f32>,
    /// (steps, tokens, channels).
    pub(super) velocities: Vec<f32>,
    /// (steps,).
    pub(super) log_probs: Vec<f32>,
}

/// Why a batch cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A tensor operation failed.
    Model(ModelError),
    /// The velocity of a row is not finite.
    NotFinite { row: usize, timestep: usize },
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl From<candle_core::Error> for Stop {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

/// The states so far. On the CPU each row is kept as its trajectory will hold it; on any other device states and velocities
/// stay tensors there, and are read once, when the last step is done.
#[derive(Debug)]
pub(super) enum States {
    Host(HostStates),
    Device(DeviceStates),
}

impl States {
    /// The batch at x_0, one of `initial` a row, each of `tokens` x `channels` numbers.
    pub(super) fn new(
        initial: Vec<Vec<f32>>,
        tokens: usize,
        channels: usize,
        steps: usize,
        placement: &Placement,
    ) -> Result<Self, ModelError> {
        Ok(match placement.is_host() {
            true => Self::Host(HostStates::new(initial, tokens, channels, steps)),
            false => Self::Device(DeviceStates::new(&initial, tokens, channels, placement.device())?),
        })
    }

    /// The present state, (batch, tokens, channels) f32 on the device.
    pub(super) fn latents(&self) -> Result<Tensor, ModelError> {
        match self {
            Self::Host(states) => states.latents(),
            Self::Device(states) => Ok(states.present().clone()),
        }
    }

    /// Takes one step with the velocities at the present state, (batch, tokens, channels) f32 on the device. `noise` draws a
    /// row's noise; it is asked only where the transition is stochastic.
    pub(super) fn advance(
        &mut self,
        transition: Transition,
        velocity: &Tensor,
        noise: impl Fn(usize) -> Vec<f32>,
    ) -> Result<(), Stop> {
        match self {
            Self::Host(states) => states.advance(transition, velocity, noise),
            Self::Device(states) => Ok(states.advance(transition, velocity, noise)?),
        }
    }

    /// Each row's way, and the clean latents that the last velocities point at, (batch, tokens, channels) f32 on the device.
    pub(super) fn finish(self) -> Result<(Vec<Way>, Tensor), Stop> {
        match self {
            Self::Host(states) => states.finish(),
            Self::Device(states) => states.finish(),
        }
    }
}

#[derive(Debug)]
pub(super) struct HostStates {
    rows: Vec<Way>,
    tokens: usize,
    channels: usize,
    /// The latest transition.
    last: Option<Transition>,
}

impl HostStates {
    fn new(initial: Vec<Vec<f32>>, tokens: usize, channels: usize, steps: usize) -> Self {
        let size = tokens * channels;
        let way = |mut latents: Vec<f32>| {
            latents.reserve_exact(steps * size);
            Way {
                latents,
                velocities: Vec::with_capacity(steps * size),
                log_probs: Vec::with_capacity(steps),
            }
        };
        Self {
            rows: initial.into_iter().map(way).collect(),
            tokens,
            channels,
            last: None,
        }
    }

    fn size(&self) -> usize {
        self.tokens * self.channels
    }

    fn latents(&self) -> Result<Tensor, ModelError> {
        let size = self.size();
        let mut values = Vec::with_capacity(self.rows.len() * size);
        for way in &self.rows {
            values.extend_from_slice(&way.latents[way.latents.len() - size..]);
        }
        self.tensor(values)
    }

    fn advance(
        &mut self,
        transition: Transition,
        velocity: &Tensor,
        noise: impl Fn(usize) -> Vec<f32>,
    ) -> Result<(), Stop> {
        let size = self.size();
        let rows = &mut self.rows;
        self.last = Some(transition);
        with_values(velocity, |velocities| {
            for (row, (way, velocity)) in rows.iter_mut().zip(velocities.chunks_exact(size)).enumerate() {
                if velocity.iter().any(|value| !value.is_finite()) {
                    let timestep = way.log_probs.len();
                    return Err(Stop::NotFinite { row, timestep });
                }
                let noise = transition.stochastic.map_or_else(Vec::new, |_| noise(row));
                let start = way.latents.len();
                way.latents.resize(start + size, 0.0);
                let (before, next) = way.latents.split_at_mut(start);
                let log_prob = transition.on_slices(&before[start - size..], velocity, &noise, next);
                way.velocities.extend_from_slice(velocity);
                way.log_probs.push(log_prob as f32);
            }
            Ok(())
        })?
    }

    fn finish(self) -> Result<(Vec<Way>, Tensor), Stop> {
        let size = self.size();
        let mut originals = Vec::with_capacity(self.rows.len() * size);
        if let Some(transition) = self.last {
            for way in &self.rows {
                let before = &way.latents[way.latents.len() - 2 * size..way.latents.len() - size];
                let velocity = &way.velocities[way.velocities.len() - size..];
                originals.extend(transition.original_on_slices(before, velocity));
            }
        }
        let originals = self.tensor(originals)?;
        Ok((self.rows, originals))
    }

    fn tensor(&self, values: Vec<f32>) -> Result<Tensor, ModelError> {
        let shape = (self.rows.len(), self.tokens, self.channels);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

#[derive(Debug)]
pub(super) struct DeviceStates {
    /// x_0 and what each step led to, (batch, tokens, channels) f32.
    states: Vec<Tensor>,
    /// The velocity at each state but the last.
    velocities: Vec<Tensor>,
    transitions: Vec<Transition>,
}

impl DeviceStates {
    fn new(initial: &[Vec<f32>], tokens: usize, channels: usize, device: &Device) -> Result<Self, ModelError> {
        let initial = Tensor::from_vec(initial.concat(), (initial.len(), tokens, channels), device)?;
        Ok(Self {
            states: vec![initial],
            velocities: Vec::new(),
            transitions: Vec::new(),
        })
    }

    fn present(&self) -> &Tensor {
        &self.states[self.states.len() - 1]
    }

    fn advance(
        &mut self,
        transition: Transition,
        velocity: &Tensor,
        noise: impl Fn(usize) -> Vec<f32>,
    ) -> Result<(), ModelError> {
        let present = self.present();
        let noise = match transition.stochastic {
            Some(_) => {
                let drawn: Vec<f32> = (0..present.dim(0)?).flat_map(noise).collect();
                Some(Tensor::from_vec(drawn, present.shape(), present.device())?)
            }
            None => None,
        };
        let next = transition.on_tensors(present, velocity, noise.as_ref())?;
        self.states.push(next);
        self.velocities.push(velocity.clone());
        self.transitions.push(transition);
        Ok(())
    }

    fn finish(self) -> Result<(Vec<Way>, Tensor), Stop> {
        let (rows, tokens, channels) = self.present().dims3()?;
        let size = tokens * channels;
        let mut ways = vec![Way::default(); rows];
        for velocity in &self.velocities {
            with_values(velocity, |values| {
                for (way, velocity) in ways.iter_mut().zip(values.chunks_exact(size)) {
                    way.velocities.extend_from_slice(velocity);
                }
            })?;
        }
        // The earliest step first, as the CPU finds it.
        for timestep in 0..self.velocities.len() {
            let velocities = ways.iter().map(|way| &way.velocities[timestep * size..][..size]);
            for (row, velocity) in velocities.enumerate() {
                if velocity.iter().any(|value| !value.is_finite()) {
                    return Err(Stop::NotFinite { row, timestep });
                }
            }
        }
        for state in &self.states {
            with_values(state, |values| {
                for (way, latents) in ways.iter_mut().zip(values.chunks_exact(size)) {
                    way.latents.extend_from_slice(latents);
                }
            })?;
        }
        for way in &mut ways {
            for (timestep, transition) in self.transitions.iter().enumerate() {
                let state = |index: usize| &way.latents[index * size..][..size];
                let velocity = &way.velocities[timestep * size..][..size];
                let log_prob = transition.log_prob(state(timestep), velocity, state(timestep + 1));
                way.log_probs.push(log_prob as f32);
            }
        }
        let last = self.velocities.len().saturating_sub(1);
        let originals = match (self.transitions.last(), self.velocities.last()) {
            (Some(transition), Some(velocity)) => transition.original_on_tensors(&self.states[last], velocity)?,
            _ => self.states[0].clone(),
        };
        Ok((ways, originals))
    }
}

#[cfg(test)]
mod tests {
    use gavel_core::noise::{NoiseKey, Use};
    use gavel_core::rpo::{self, Sde, StepCoefficients};

    use super::*;

    const ROWS: usize = 2;
    const TOKENS: usize = 3;
    const CHANNELS: usize = 4;
    const SIZE: usize = TOKENS * CHANNELS;
    const STEPS: usize = 4;

    fn normal(prompt: u32, timestep: u32, count: usize) -> Vec<f32> {
        NoiseKey {
            prompt,
            timestep,
            ..NoiseKey::new(9, Use::Step)
        }
        .normal(count)
    }

    /// Four steps, the first two stochastic, with velocities that depend on the states; `spoilt` is (row, timestep) of a
    /// velocity that is not finite.
    fn walk(mut states: States, spoilt: Option<(usize, usize)>) -> Result<(Vec<Way>, Vec<f32>), Stop> {
        let sigmas = rpo::sigmas(STEPS, 3.0);
        for timestep in 0..STEPS {
            let (sigma, sigma_next) = (sigmas[timestep], sigmas[timestep + 1]);
            let latents = states.latents().unwrap();
            let mut velocity = latents.affine(0.5, f64::from(sigma)).unwrap().flatten_all().unwrap();
            if let Some((row, _)) = spoilt.filter(|(_, at)| *at == timestep) {
                let mut values = velocity.to_vec1::<f32>().unwrap();
                values[row * SIZE] = f32::NAN;
                velocity = Tensor::from_vec(values, ROWS * SIZE, &Device::Cpu).unwrap();
            }
            let velocity = velocity.reshape((ROWS, TOKENS, CHANNELS)).unwrap();
            let transition = Transition {
                sigma,
                sigma_next,
                stochastic: (timestep < 2).then(|| StepCoefficients::new(Sde::Dance, 0.5, sigma, sigma_next)),
            };
            states.advance(transition, &velocity, |row| {
                normal(row as u32, timestep as u32 + 1, SIZE)
            })?;
        }
        let (ways, originals) = states.finish()?;
        Ok((ways, originals.flatten_all().unwrap().to_vec1().unwrap()))
    }

    fn both() -> [States; 2] {
        let initial: Vec<Vec<f32>> = (0..ROWS).map(|row| normal(row as u32, 0, SIZE)).collect();
        [
            States::Device(DeviceStates::new(&initial, TOKENS, CHANNELS, &Device::Cpu).unwrap()),
            States::Host(HostStates::new(initial, TOKENS, CHANNELS, STEPS)),
        ]
    }

    #[test]
    fn a_way_on_a_device_is_the_way_on_the_cpu_bit_for_bit() {
        let [device, host] = both().map(|states| walk(states, None).unwrap());
        assert_eq!(device, host);
        let (ways, originals) = host;
        assert_eq!(ways.len(), ROWS);
        assert_eq!(ways[0].latents.len(), (STEPS + 1) * SIZE);
        assert_eq!(ways[0].log_probs.len(), STEPS);
        assert!(ways[0].log_probs[1] != 0.0 && ways[0].log_probs[2] == 0.0);
        // The last Euler step goes to sigma 0, where the state is the clean image.
        assert_eq!(originals[..SIZE], ways[0].latents[STEPS * SIZE..]);
    }

    #[test]
    fn both_name_the_first_velocity_that_is_not_finite() {
        for states in both() {
            let stopped = walk(states, Some((1, 2)));
            assert!(
                matches!(stopped, Err(Stop::NotFinite { row: 1, timestep: 2 })),
                "{stopped:?}"
            );
        }
    }
}
