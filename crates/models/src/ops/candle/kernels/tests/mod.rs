//! `cuda/kernels.cu`, compiled for the CPU, against the CPU's operations.

mod layers;

use std::ffi::c_void;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use libloading::Library;

use super::Operation;
use crate::ops::fp8;

const EPSILON: f32 = 1e-6;

/// The file as a library of this machine.
fn compiled(folder: &Path) -> Library {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/candle/kernels/cuda/kernels.cu");
    let library = folder.join("kernels.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let status = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-x", "c++"])
        .args([source.as_os_str(), "-o".as_ref(), library.as_os_str()])
        .status()
        .unwrap_or_else(|error| panic!("{compiler}, which compiles C++, does not start: {error}"));
    assert!(status.success(), "{compiler}: {status}");
    // SAFETY: it has no initialisers.
    unsafe { Library::new(library) }.unwrap()
}

/// A tensor's bytes.
#[derive(Clone)]
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Bytes(Vec<u8>),
}

impl Values {
    fn of(tensor: &Tensor) -> Self {
        let flat = tensor.flatten_all().unwrap();
        match flat.dtype() {
            DType::BF16 => Self::Bf16(flat.to_vec1().unwrap()),
            DType::U8 => Self::Bytes(flat.to_vec1().unwrap()),
            _ => Self::F32(flat.to_vec1().unwrap()),
        }
    }

    fn pointer(&mut self) -> *mut c_void {
        match self {
            Self::F32(values) => values.as_mut_ptr().cast(),
            Self::Bf16(values) => values.as_mut_ptr().cast(),
            Self::Bytes(values) => values.as_mut_ptr().cast(),
        }
    }

    /// As many that are not numbers, for a kernel to write over.
    fn unwritten(&self) -> Self {
        match self {
            Self::F32(values) => Self::F32(vec![f32::NAN; values.len()]),
            Self::Bf16(values) => Self::Bf16(vec![bf16::NAN; values.len()]),
            Self::Bytes(values) => Self::Bytes(vec![u8::MAX; values.len()]),
        }
    }

    fn wide(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            Self::Bf16(values) => values.iter().map(|value| value.to_f32()).collect(),
            Self::Bytes(values) => values.iter().map(|byte| fp8::widen(*byte)).collect(),
        }
    }
}

/// Calls the compiled kernel of `operation` for tensors of `kind`, which takes `pack` values at once.
fn call(
    library: &Library,
    operation: Operation,
    kind: &str,
    pack: usize,
    inputs: &[&Tensor],
    mut out: Values,
) -> Vec<f32> {
    type In = *const c_void;
    type Out = *mut c_void;
    let dims = inputs[0].dims();
    let width = *dims.last().unwrap();
    let (rows, width) = ((inputs[0].elem_count() / width) as i64, width as i64);
    let tokens = dims[dims.len() - 2] as i64;
    let mut values: Vec<Values> = inputs.iter().map(|input| Values::of(input)).collect();
    let p: Vec<In> = values.iter_mut().map(|values| values.pointer().cast_const()).collect();
    let (o, name) = (out.pointer(), format!("{}_{kind}_{pack}", operation.name()));
    // SAFETY: the signatures are those of the file; `Operation::check` has passed for the same inputs.
    unsafe {
        match operation {
            Operation::Swapped => {
                type Kernel = unsafe extern "C" fn(In, Out, i64, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], o, rows, width, dims[0] as i64);
            }
            Operation::Widened | Operation::Gelu | Operation::Softmax { .. } => {
                library.get::<unsafe extern "C" fn(In, Out, i64, i64)>(name).unwrap()(p[0], o, rows, width);
            }
            Operation::GeluVjp | Operation::SoftmaxVjp { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, Out, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], o, rows, width);
            }
            Operation::Biased
            | Operation::Added
            | Operation::Gated
            | Operation::Dequantized { .. }
            | Operation::DequantizedNf4 { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, Out, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], o, rows, width);
            }
            Operation::GatedResidual | Operation::BiasedAdded => {
                type Kernel = unsafe extern "C" fn(In, In, In, Out, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], p[2], o, rows, width);
            }
            Operation::ModulatedNorm { epsilon } | Operation::ModulatedNormVjp { epsilon } => {
                type Kernel = unsafe extern "C" fn(In, In, In, Out, i64, i64, f32);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], p[2], o, rows, width, epsilon);
            }
            Operation::Turned { epsilon, text } => {
                type Kernel = unsafe extern "C" fn(In, In, In, In, Out, i64, i64, f32, i64, i64);
                let kernel = library.get::<Kernel>(name).unwrap();
                kernel(p[0], p[1], p[2], p[3], o, rows, width, epsilon, tokens, text as i64);
            }
            Operation::TurnedVjp { epsilon, text } => {
                type Kernel = unsafe extern "C" fn(In, In, In, In, In, Out, i64, i64, f32, i64, i64);
                let kernel = library.get::<Kernel>(name).unwrap();
                kernel(
                    p[0],
                    p[1],
                    p[2],
                    p[3],
                    p[4],
                    o,
                    rows,
                    width,
                    epsilon,
                    tokens,
                    text as i64,
                );
            }
            other => panic!("{other:?} is not of the transformer"),
        }
    }
    out.wide()
}

/// Values that look random in [-2, 2], in one number format.
fn noise(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 7919 + seed * 104_729) % 4001) as f32 / 1000.0 - 2.0)
        .collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

#[test]
fn the_kernels_of_gpus_compute_what_the_cpu_computes() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(folder.path());
    let (heads, tokens, text) = (3, 5, 2);
    for (dtype, kind) in [(DType::F32, "float"), (DType::BF16, "bf16")] {
        for width in [12, 6] {
            let x = noise(&[2, heads, tokens, width], 1, dtype);
            let like_x = noise(&[2, heads, tokens, width], 2, dtype);
            let (wide_x, wide_like_x) = (noise(x.dims(), 1, DType::F32), noise(x.dims(), 2, DType::F32));
            let [one, other] = [3, 4].map(|seed| noise(&[width], seed, dtype));
            let [texts, images] = [5, 6].map(|seed| noise(&[2, width], seed, DType::F32));
            let angles = noise(&[tokens, width], 7, DType::F32);
            let epsilon = EPSILON;
            let cubic = x.flatten_to(1).unwrap();
            let cases: [(Operation, Vec<&Tensor>); 15] = [
                (Operation::Widened, vec![&x]),
                (Operation::Swapped, vec![&cubic]),
                (Operation::Gated, vec![&x, &one]),
                (Operation::Biased, vec![&x, &one]),
                (Operation::Added, vec![&x, &wide_like_x]),
                (Operation::BiasedAdded, vec![&x, &one, &wide_like_x]),
                (Operation::Gelu, vec![&x]),
                (Operation::GeluVjp, vec![&x, &like_x]),
                (Operation::GatedResidual, vec![&x, &like_x, &one]),
                (Operation::ModulatedNorm { epsilon }, vec![&x, &one, &other]),
                (Operation::ModulatedNormVjp { epsilon }, vec![&x, &one, &like_x]),
                (Operation::Softmax { dtype }, vec![&wide_x]),
                (Operation::SoftmaxVjp { dtype }, vec![&wide_x, &wide_like_x]),
                (Operation::Turned { epsilon, text }, vec![&x, &texts, &images, &angles]),
                (
                    Operation::TurnedVjp { epsilon, text },
                    vec![&x, &like_x, &texts, &images, &angles],
                ),
            ];
            for (operation, inputs) in cases {
                let expected = operation.of(inputs[0], &inputs[1..]).unwrap();
                assert_eq!(expected.dtype(), operation.dtype(inputs[0].dtype()), "{operation:?}");
                let expected = Values::of(&expected);
                let smallest = match operation {
                    Operation::Turned { .. } | Operation::TurnedVjp { .. } => 2,
                    _ => 1,
                };
                for pack in [smallest, 4].into_iter().filter(|pack| width % pack == 0) {
                    let found = call(&library, operation, kind, pack, &inputs, expected.unwritten());
                    let expected = expected.wide();
                    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                    let tolerance = if dtype == DType::F32 { 2e-6 } else { 8e-3 };
                    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert!(
                            (found - expected).abs() <= tolerance * largest,
                            "{operation:?} {kind} by {pack} at {at} of {width} a row: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// One product and one rounding, so bit for bit: all 256 bytes, by scales that are ordinary, tiny and 1. Of 4 bits there are two numbers in a
/// byte, and the last block of a row is shorter.
#[test]
fn quantized_numbers_are_widened_to_the_same_bits_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(folder.path());
    let every: Vec<u8> = (0..3).flat_map(|_| 0..=u8::MAX).collect();
    let rows = Tensor::from_vec(every.clone(), (3, 256), &Device::Cpu).unwrap();
    let scales = Tensor::new(&[0.001_234_f32, f32::MIN_POSITIVE, 1.0], &Device::Cpu).unwrap();
    let ragged = Tensor::from_vec(every[..3 * 52].to_vec(), (3, 52), &Device::Cpu).unwrap();
    let block_scales = Tensor::new(&[0.001_234_f32, f32::MIN_POSITIVE, 1.0, 2.5, 0.0, 7e-3], &Device::Cpu).unwrap();
    let cases = [(DType::F32, "float"), (DType::BF16, "bf16")]
        .into_iter()
        .flat_map(|(dtype, kind)| {
            [
                (Operation::Dequantized { dtype }, dtype, kind, &rows, &scales, [3, 256]),
                (
                    Operation::DequantizedNf4 { dtype },
                    dtype,
                    kind,
                    &ragged,
                    &block_scales,
                    [3, 104],
                ),
            ]
        });
    for (operation, dtype, kind, bytes, scales, dims) in cases {
        let expected = operation.of(bytes, &[scales]).unwrap();
        assert_eq!((expected.dtype(), expected.dims()), (dtype, dims.as_slice()));
        let expected = Values::of(&expected);
        for pack in [1, 4] {
            let found = call(&library, operation, kind, pack, &[bytes, scales], expected.unwritten());
            for (at, (found, expected)) in found.iter().zip(expected.wide()).enumerate() {
                let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{kind} by {pack} at {at}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn inputs_that_a_kernel_would_misread_are_refused() {
    let x = noise(&[2, 3, 5, 12], 1, DType::F32);
    let narrow = noise(&[2, 3, 5, 12], 1, DType::BF16);
    let refused = |operation: Operation, first: &Tensor, others: &[&Tensor]| {
        let error = operation.of(first, others).unwrap_err().to_string();
        assert!(
            error.contains(operation.name()) && error.contains("wrong inputs"),
            "{error}"
        );
    };
    refused(Operation::Gelu, &x.t().unwrap(), &[]);
    refused(Operation::GeluVjp, &x, &[]);
    refused(Operation::GeluVjp, &x, &[&narrow]);
    refused(Operation::GatedResidual, &x, &[&x, &x]);
    refused(Operation::Softmax { dtype: DType::BF16 }, &narrow, &[]);
    let bytes = x.to_dtype(DType::U8).unwrap();
    refused(Operation::Dequantized { dtype: DType::F32 }, &x, &[&narrow]);
    refused(Operation::Dequantized { dtype: DType::F32 }, &bytes, &[&bytes]);
    refused(Operation::DequantizedNf4 { dtype: DType::F32 }, &bytes, &[&x]);
    let turn = Operation::Turned {
        epsilon: EPSILON,
        text: 2,
    };
    let [weights, angles] = [[2, 12], [5, 12]].map(|shape| noise(&shape, 1, DType::F32));
    refused(turn, &x.flatten_to(1).unwrap(), &[&weights, &weights, &angles]);
    refused(turn, &x, &[&weights, &weights, &weights]);
}
