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
