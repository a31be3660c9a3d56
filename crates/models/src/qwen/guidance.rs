//! Classifier-free guidance that keeps the length of each token's velocity.

use candle_core::{D, Tensor};

use crate::ModelError;

/// The smallest length that a velocity is divided by.
const LENGTH_MIN: f64 = f32::MIN_POSITIVE as f64;

/// The velocity that leads away from the negative prompt, with the length that the velocity under the prompt has, per token.
///
/// # Shapes
/// Both (batch, tokens, channels) float32; so is the result. They must hold the tokens of the target alone.
///
/// # Errors
/// [`ModelError::Shape`] when the shapes differ.
///
/// # Source
/// diffusers 0.42, `true_cfg_scale` of `QwenImagePipeline` and the edit pipelines. Deviation: where the guided velocity is
/// exactly 0, so is the result; the pipelines divide by zero there.
pub fn guided(prompt: &Tensor, negative: &Tensor, scale: f32) -> Result<Tensor, ModelError> {
    if prompt.dims() != negative.dims() {
        return Err(ModelError::Shape {
            input: "negative",
            expected: format!("{:?}, as under the prompt", prompt.dims()),
            found: negative.dims().to_vec(),
        });
    }
    let scale = Tensor::new(scale, prompt.device())?;
    let guided = (negative + (prompt - negative)?.broadcast_mul(&scale)?)?;
    let length = |velocity: &Tensor| velocity.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
    let direction = guided.broadcast_div(&length(&guided)?.maximum(LENGTH_MIN)?)?;
    Ok(direction.broadcast_mul(&length(prompt)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_token_without_a_guided_velocity_stays_where_it_is() {
        let prompt = Tensor::new(&[[[1.0_f32, 0.0], [0.0, 2.0]]], &Device::Cpu).unwrap();
        let negative = Tensor::new(&[[[2.0_f32, 0.0], [0.0, 1.0]]], &Device::Cpu).unwrap();
        let found = guided(&prompt, &negative, 2.0).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(found, [[[0.0, 0.0], [0.0, 2.0]]]);
    }

    #[test]
    fn velocities_of_different_shapes_are_refused() {
        let velocity = |tokens: usize| Tensor::ones((1, tokens, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(guided(&velocity(3), &velocity(5), 4.0).is_err());
    }
}
