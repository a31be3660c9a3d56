//! AdamW on flat vectors, gradient clipping, and the adapter's moving average.

use crate::spec::OptimizerSpec;

/// AdamW's state. Moments are stored as f32, one for each parameter, in the adapter's flat order.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// Updates taken so far.
    pub step: u64,
    /// First moment.
    pub first: Vec<f32>,
    /// Second moment.
    pub second: Vec<f32>,
}

impl AdamW {
    /// The state before the first update of `parameters` parameters.
    pub fn new(parameters: usize) -> Self {
        Self {
            step: 0,
            first: vec![0.0; parameters],
            second: vec![0.0; parameters],
        }
    }

    /// Takes one step with decoupled weight decay.
    ///
    /// # Source
    /// PyTorch's `torch.optim.AdamW`. Deviation: each element is computed in f64 and rounded once for each stored value.
    ///
    /// # Panics
    /// When parameters, gradient and state differ in length.
    pub fn update(&mut self, spec: &OptimizerSpec, learning_rate: f64, parameters: &mut [f32], gradient: &[f32]) {
        assert!(
            parameters.len() == gradient.len() && parameters.len() == self.first.len(),
            "optimizer state of {} parameters met {} parameters and {} gradients",
            self.first.len(),
            parameters.len(),
            gradient.len()
        );
        self.step += 1;
        let correction1 = 1.0 - libm::pow(spec.beta1, self.step as f64);
        let correction2 = (1.0 - libm::pow(spec.beta2, self.step as f64)).sqrt();
        let keep = 1.0 - learning_rate * spec.weight_decay;
        let rate = learning_rate / correction1;
        for (((parameter, &gradient), first), second) in parameters
            .iter_mut()
            .zip(gradient)
            .zip(&mut self.first)
            .zip(&mut self.second)
        {
            let gradient = f64::from(gradient);
            *first = (spec.beta1 * f64::from(*first) + (1.0 - spec.beta1) * gradient) as f32;
            *second = (spec.beta2 * f64::from(*second) + (1.0 - spec.beta2) * gradient * gradient) as f32;
            let denominator = f64::from(*second).sqrt() / correction2 + spec.epsilon;
            *parameter = (keep * f64::from(*parameter) - rate * f64::from(*first) / denominator) as f32;
        }
    }
}

/// Scales `gradient` down to a Euclidean norm of `max` if it is longer, and returns the norm that it had.
///
/// As `torch.nn.utils.clip_grad_norm_`: the factor is max / (norm + 1e-6). A norm that is not finite leaves the gradient as it is.
pub fn clip_by_norm(gradient: &mut [f32], max: f64) -> f64 {
    let mut squares = 0.0;
    for &value in gradient.iter() {
        squares += f64::from(value) * f64::from(value);
    }
    let norm = squares.sqrt();
    let factor = max / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        for value in gradient {
            *value = (f64::from(*value) * factor) as f32;
        }
    }
    norm
}

/// Moves the average towards `parameters`: average = decay average + (1 - decay) parameters.
///
/// # Panics
/// When the slices differ in length.
pub fn ema(average: &mut [f32], parameters: &[f32], decay: f64) {
    assert_eq!(
        average.len(),
        parameters.len(),
        "average and parameters differ in length"
    );
    for (average, &parameter) in average.iter_mut().zip(parameters) {
        *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(parameter)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f32], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            // f32 storage against PyTorch's all-f32 arithmetic.
            assert!((f64::from(*found) - expected).abs() <= 5e-7, "{found} and {expected}");
        }
    }

    /// PyTorch 2.15.0: `AdamW([0.5, -1.25, 2.0, 0.0], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)`, three steps.
    #[test]
    fn three_updates_are_pytorch_s() {
        let spec = OptimizerSpec {
            weight_decay: 0.1,
            ..OptimizerSpec::default()
        };
        let mut optimizer = AdamW::new(4);
        let mut parameters = [0.5, -1.25, 2.0, 0.0];
        for (gradient, expected) in [
            ([0.1, -0.2, 0.3, 0.0], [0.489500016, -1.23874998, 1.98800004, 0.0]),
            (
                [0.5, 0.25, -0.125, 1e-3],
                [0.480400056, -1.2391386, 1.98269069, -0.00744126225],
            ),
            (
                [-0.3, 0.6, 0.0, -2.0],
                [0.477424383, -1.24412811, 1.97814059, -0.00104856119],
            ),
        ] {
            optimizer.update(&spec, 1e-2, &mut parameters, &gradient);
            close(&parameters, &expected);
        }
        assert_eq!(optimizer.step, 3);
    }

    /// PyTorch 2.15.0: `clip_grad_norm_` to 1.0.
    #[test]
    fn clipping_is_pytorch_s_and_returns_the_norm_before() {
        let mut gradient = [3.0, 4.0, 12.0];
        assert_eq!(clip_by_norm(&mut gradient, 1.0), 13.0);
        close(&gradient, &[0.230769217, 0.307692289, 0.923076868]);
        let short = gradient;
        assert!((clip_by_norm(&mut gradient, 2.0) - 1.0).abs() < 1e-6);
        assert_eq!(gradient, short);
        assert!(clip_by_norm(&mut [f32::NAN], 1.0).is_nan());
    }

    #[test]
    fn the_average_moves_by_one_minus_decay() {
        let mut average = [1.0, 0.0];
        ema(&mut average, &[2.0, -1.0], 0.75);
        assert_eq!(average, [1.25, -0.25]);
    }
}
