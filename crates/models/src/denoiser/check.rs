//! What every family asks of an input before its network computes.

use std::collections::BTreeMap;

use super::Input;
use crate::ModelError;

/// The error of a tensor that has another shape than `expected`.
pub(crate) fn misfit(input: &'static str, expected: impl Into<String>, found: &[usize]) -> ModelError {
    ModelError::Shape {
        input,
        expected: expected.into(),
        found: found.to_vec(),
    }
}

/// Checks that latents of `channels` channels, conditioning and sigma are of one batch. Returns the conditioning's shapes without
/// the batch dimension, as [`super::Denoiser::check_conditioning`] takes them.
///
/// # Errors
/// [`ModelError::Shape`], or [`ModelError::Value`] for a sigma outside of (0, 1].
pub(crate) fn check_batch(input: &Input<'_>, channels: usize) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
    let tokens = input.grid.tokens();
    let batch = match *input.latents.dims() {
        [batch, t, c] if batch > 0 && tokens > 0 && t == tokens && c == channels => batch,
        _ => {
            let (height, width) = (input.grid.height, input.grid.width);
            let expected = format!("(batch, {height} * {width} tokens, {channels})");
            return Err(misfit("latents", expected, input.latents.dims()));
        }
    };
    let mut shapes = BTreeMap::new();
    for (name, tensor) in input.conditioning.iter() {
        match tensor.dims() {
            [count, rest @ ..] if *count == batch => shapes.insert(name.to_owned(), rest.to_vec()),
            found => return Err(misfit("conditioning", format!("a batch of {batch}"), found)),
        };
    }
    if input.sigma.len() != batch {
        return Err(misfit("sigma", format!("({batch},)"), &[input.sigma.len()]));
    }
    if let Some(sigma) = input.sigma.iter().find(|sigma| !(**sigma > 0.0 && **sigma <= 1.0)) {
        return Err(ModelError::Value {
            input: "sigma",
            problem: format!("is {sigma}, must lie in (0, 1]"),
        });
    }
    Ok(shapes)
}
