//! The number formats of files.

use candle_core::DType;
use half::{bf16, f16};

/// A format of safetensors as candle has it, for those that are read.
pub(super) fn candle_dtype(dtype: safetensors::Dtype) -> Option<DType> {
    match dtype {
        safetensors::Dtype::F64 => Some(DType::F64),
        safetensors::Dtype::F32 => Some(DType::F32),
        safetensors::Dtype::F16 => Some(DType::F16),
        safetensors::Dtype::BF16 => Some(DType::BF16),
        safetensors::Dtype::I64 => Some(DType::I64),
        safetensors::Dtype::I32 => Some(DType::I32),
        safetensors::Dtype::U32 => Some(DType::U32),
        safetensors::Dtype::U8 => Some(DType::U8),
        _ => None,
    }
}

/// The numbers of a file as float32, of any format that [`candle_dtype`] gives.
pub(super) fn widen(bytes: &[u8], dtype: DType, to: &mut [f32]) {
    fn each<const BYTES: usize>(bytes: &[u8], to: &mut [f32], wide: impl Fn([u8; BYTES]) -> f32) {
        let (numbers, _) = bytes.as_chunks();
        to.iter_mut().zip(numbers).for_each(|(to, number)| *to = wide(*number));
    }
    match dtype {
        DType::F64 => each(bytes, to, |number| f64::from_le_bytes(number) as f32),
        DType::F32 => each(bytes, to, f32::from_le_bytes),
        DType::BF16 => each(bytes, to, |number| bf16::from_le_bytes(number).to_f32()),
        DType::F16 => each(bytes, to, |number| f16::from_le_bytes(number).to_f32()),
        DType::I64 => each(bytes, to, |number| i64::from_le_bytes(number) as f32),
        DType::I32 => each(bytes, to, |number| i32::from_le_bytes(number) as f32),
        DType::U32 => each(bytes, to, |number| u32::from_le_bytes(number) as f32),
        _ => each(bytes, to, |[number]| f32::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn numbers_are_widened_as_candle_widens_them() {
        let numbers: [f64; 6] = [0.0, 1.0, 3.0, 100.0, 77.0, 2.0];
        for dtype in [
            DType::F64,
            DType::F32,
            DType::BF16,
            DType::F16,
            DType::I64,
            DType::I32,
            DType::U32,
            DType::U8,
        ] {
            let bytes: Vec<u8> = numbers
                .iter()
                .flat_map(|number| match dtype {
                    DType::F64 => number.to_le_bytes().to_vec(),
                    DType::F32 => (*number as f32).to_le_bytes().to_vec(),
                    DType::BF16 => bf16::from_f64(*number).to_le_bytes().to_vec(),
                    DType::F16 => f16::from_f64(*number).to_le_bytes().to_vec(),
                    DType::I64 => (*number as i64).to_le_bytes().to_vec(),
                    DType::I32 => (*number as i32).to_le_bytes().to_vec(),
                    DType::U32 => (*number as u32).to_le_bytes().to_vec(),
                    _ => vec![*number as u8],
                })
                .collect();
            let mut found = [f32::NAN; 6];
            widen(&bytes, dtype, &mut found);
            let tensor = Tensor::from_raw_buffer(&bytes, dtype, &[6], &Device::Cpu).unwrap();
            let expected: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap();
            assert_eq!(found.to_vec(), expected, "{dtype:?}");
        }
    }
}
