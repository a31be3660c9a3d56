//! A matrix product that is added to what is there.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor, bail};
use half::{bf16, f16};

use super::host;
use crate::ops::cpu::matmul::{Left, Order, Right, Start, matmul};

/// Adds a b to `sums` (m, n), whose rows may be parts of longer ones, of contiguous a (m, k) and b (k, n), all of one number format. Sums are float32, and
/// are rounded once.
///
/// # Errors
/// Other shapes, layouts or formats; tensors on different devices.
pub(crate) fn add_product(sums: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    sums.inplace_op3(a, b, &AddedProduct)
}

struct AddedProduct;

/// Where a product is added: m, n and k, the first of the sums, and the distance of their rows.
struct Place {
    sizes: (usize, usize, usize),
    start: usize,
    stride: usize,
}

impl Place {
    fn new(sums: &Layout, a: &Layout, b: &Layout) -> Result<Self> {
        let (&[m, n], &[stride, 1]) = (sums.dims(), sums.stride()) else {
            bail!("a product added to {sums:?}");
        };
        let k = a.dims().last().copied().unwrap_or(0);
        if a.dims() != [m, k] || b.dims() != [k, n] || !a.is_contiguous() || !b.is_contiguous() || stride < n {
            bail!("a product of {a:?} and {b:?} added to {sums:?}");
        }
        Ok(Self {
            sizes: (m, n, k),
            start: sums.start_offset(),
            stride,
        })
    }
}

impl InplaceOp3 for AddedProduct {
    fn name(&self) -> &'static str {
        "added_product"
    }

    fn cpu_fwd(
        &self,
        sums: &mut CpuStorage,
        sums_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let Place {
            sizes: (m, n, k),
            start,
            stride,
        } = Place::new(sums_layout, a_layout, b_layout)?;
        let input = |storage: &CpuStorage, layout: &Layout| {
            let start = layout.start_offset();
            host::floats(storage, start..start + layout.shape().elem_count())
        };
        let (left, right) = (input(a, a_layout)?, input(b, b_layout)?);
        let rows = (0..m).map(|row| start + row * stride..start + row * stride + n);
        let mut wide = Vec::with_capacity(m * n);
        for row in rows.clone() {
            wide.extend(host::floats(sums, row)?);
        }
        let left = Left {
            data: &left,
            stride: k,
            order: Order::RowMajor,
        };
        let right = Right {
            data: &right,
            stride: n,
        };
        matmul((m, n, k), left, right, Start::Destination, &mut wide, n);
        for (row, wide) in rows.zip(wide.chunks_exact(n)) {
            match sums {
                CpuStorage::F32(sums) => sums[row].copy_from_slice(wide),
                CpuStorage::BF16(sums) => {
                    let pairs = sums[row].iter_mut().zip(wide);
                    pairs.for_each(|(sum, wide)| *sum = bf16::from_f32(*wide));
                }
                CpuStorage::F16(sums) => {
                    let pairs = sums[row].iter_mut().zip(wide);
                    pairs.for_each(|(sum, wide)| *sum = f16::from_f32(*wide));
                }
                other => bail!("no product of {:?}", other.dtype()),
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        sums: &mut candle_core::CudaStorage,
        sums_layout: &Layout,
        a: &candle_core::CudaStorage,
        a_layout: &Layout,
        b: &candle_core::CudaStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let place = Place::new(sums_layout, a_layout, b_layout)?;
        super::gpu::add_product(
            place.sizes,
            (&*sums, place.start, place.stride),
            (a, a_layout.start_offset()),
            (b, b_layout.start_offset()),
        )
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_product_is_added_to_a_part_of_longer_rows_and_what_does_not_fit_is_refused() {
        let numbers = |shape: &[usize], dtype: DType| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i| (i * 37 % 11) as f32 - 5.0).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            tensor.to_dtype(dtype).unwrap()
        };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            // Whole numbers below 256, which all formats hold.
            let (sums, a, b) = (
                numbers(&[3, 7], dtype),
                numbers(&[3, 2], dtype),
                numbers(&[2, 4], dtype),
            );
            let before = sums.copy().unwrap();
            add_product(&sums.narrow(1, 2, 4).unwrap(), &a, &b).unwrap();
            let [before, wide_a, wide_b] = [&before, &a, &b].map(|x| x.to_dtype(DType::F32).unwrap());
            let product = wide_a.matmul(&wide_b).unwrap().pad_with_zeros(1, 2, 1).unwrap();
            let expected = (before + product).unwrap();
            let found = sums.to_dtype(DType::F32).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            for (sums, a, b) in [
                (&sums, &a, &b),
                (&sums.narrow(1, 0, 4).unwrap(), &b, &a),
                (&sums.t().unwrap(), &a, &b),
                (&sums.narrow(1, 0, 2).unwrap(), &a, &b.narrow(1, 0, 2).unwrap()),
            ] {
                let error = add_product(sums, a, b).unwrap_err().to_string();
                assert!(error.contains("added to"), "{error}");
            }
        }
    }
}
