//! Gradient files: PEFT tensor names, float32.

use gavel_models::lora::LoraAdapter;

use crate::{TensorFile, TensorFileError};

/// Value of the metadata key `format`.
const FORMAT: &str = "gavel.gradient.v1";

/// Writes a gradient in the adapter's flat order; `terms` is the number of (candidate, timestep) terms in it, and `scale`
/// says whether it is their `sum` or their `mean`.
pub fn write(adapter: &LoraAdapter, gradient: &[f32], terms: u64, scale: &str) -> Vec<u8> {
    let mut file = TensorFile::default();
    file.metadata.insert("format".into(), FORMAT.into());
    file.metadata.insert("terms".into(), terms.to_string());
    file.metadata.insert("scale".into(), scale.into());
    for (name, shape, range) in adapter.tensors() {
        file.insert(&name, &shape, gradient[range].to_vec());
    }
    file.to_bytes()
}

/// Reads a gradient of this adapter into its flat order.
///
/// # Errors
/// [`TensorFileError`] naming the tensor that is missing, unknown or of another shape.
pub fn read(adapter: &LoraAdapter, bytes: &[u8]) -> Result<Vec<f32>, TensorFileError> {
    let mut file = TensorFile::from_bytes(bytes)?;
    file.expect_format(FORMAT)?;
    let mut gradient = vec![0.0; adapter.parameter_count()];
    for (name, shape, range) in adapter.tensors() {
        let tensor = file.take(&name)?;
        tensor.expect_shape(&name, &shape.map(Some))?;
        gradient[range].copy_from_slice(&tensor.values);
    }
    file.expect_empty()?;
    Ok(gradient)
}
