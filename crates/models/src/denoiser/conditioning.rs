//! What a denoiser is conditioned on.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::ModelError;

/// What a task conditions the denoiser on: float32 tensors by name, on the denoiser's device. A family decides the names.
///
/// The conditioning of one task has no batch dimension; [`Conditioning::stack`] puts several into one batch.
#[derive(Debug, Clone, Default)]
pub struct Conditioning(BTreeMap<String, Tensor>);

impl Conditioning {
    /// Makes an empty conditioning.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor. One of the same name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`ModelError::ConditioningMissing`].
    pub fn get(&self, name: &str) -> Result<&Tensor, ModelError> {
        self.0
            .get(name)
            .ok_or_else(|| ModelError::ConditioningMissing { name: name.to_owned() })
    }

    /// All tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The shape of each tensor.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.0
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()))
            .collect()
    }

    /// Puts several conditionings of equal names and shapes into one batch.
    ///
    /// # Shapes
    /// Each tensor gets a leading dimension of `parts.len()`.
    ///
    /// # Errors
    /// [`ModelError::Value`] for no parts, or parts of different names or shapes.
    pub fn stack(parts: &[&Self]) -> Result<Self, ModelError> {
        let refuse = |problem: &str| {
            Err(ModelError::Value {
                input: "conditioning",
                problem: problem.to_owned(),
            })
        };
        let Some(first) = parts.first() else {
            return refuse("an empty batch has no conditioning");
        };
        let shapes = first.shapes();
        if parts.iter().any(|part| part.shapes() != shapes) {
            return refuse("all samples of a batch need tensors of the same names and shapes");
        }
        let mut stacked = Self::new();
        for name in first.0.keys() {
            let tensors: Vec<&Tensor> = parts.iter().map(|part| part.get(name)).collect::<Result<_, _>>()?;
            stacked.insert(name.clone(), Tensor::stack(&tensors, 0)?);
        }
        Ok(stacked)
    }

    /// The same on another device.
    ///
    /// # Errors
    /// [`ModelError::Candle`] when the copy fails.
    pub fn to_device(&self, device: &Device) -> Result<Self, ModelError> {
        self.map(|tensor| Ok(tensor.to_device(device)?))
    }

    /// Applies `map` to each tensor.
    pub(crate) fn map(&self, map: impl Fn(&Tensor) -> Result<Tensor, ModelError>) -> Result<Self, ModelError> {
        let tensors = self
            .0
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), map(tensor)?)))
            .collect::<Result<_, ModelError>>()?;
        Ok(Self(tensors))
    }
}

impl<N: Into<String>> FromIterator<(N, Tensor)> for Conditioning {
    fn from_iter<T: IntoIterator<Item = (N, Tensor)>>(tensors: T) -> Self {
        Self(
            tensors
                .into_iter()
                .map(|(name, tensor)| (name.into(), tensor))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokens: usize) -> Conditioning {
        let tensor = Tensor::arange(0.0_f32, (tokens * 2) as f32, &Device::Cpu).unwrap();
        Conditioning::from_iter([("words", tensor.reshape((tokens, 2)).unwrap())])
    }

    #[test]
    fn a_batch_has_one_row_per_part() {
        let one = words(3);
        let stacked = Conditioning::stack(&[&one, &one]).unwrap();
        assert_eq!(stacked.shapes()["words"], [2, 3, 2]);
    }

    #[test]
    fn parts_of_different_shapes_or_names_do_not_stack() {
        assert!(Conditioning::stack(&[]).is_err());
        assert!(Conditioning::stack(&[&words(3), &words(4)]).is_err());
        assert!(Conditioning::stack(&[&words(3), &Conditioning::new()]).is_err());
    }

    #[test]
    fn an_absent_tensor_is_named() {
        let error = words(1).get("pooled").unwrap_err();
        assert_eq!(error.to_string(), "the conditioning has no tensor `pooled`");
    }
}
