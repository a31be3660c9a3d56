//! The kernels of the layers around the transformer.

use std::ffi::c_void;

use candle_core::{DType, Tensor};
use libloading::Library;

use super::super::rows::Argument;
use super::super::{Operation, Then, Window};
use super::{Values, compiled, noise};

type In = *const c_void;
type Out = *mut c_void;

/// Calls the compiled kernel of `operation`, which takes `pack` values at once.
fn call(
    library: &Library,
    operation: Operation,
    kind: &str,
    pack: usize,
    inputs: &[&Tensor],
    mut out: Values,
) -> Vec<f32> {
    let dims = inputs[0].dims();
    let by = operation.rows(dims);
    let (rows, width) = (by.rows as i64, by.width as i64);
    let mut values: Vec<Values> = inputs.iter().map(|input| Values::of(input)).collect();
    let p: Vec<In> = values.iter_mut().map(|values| values.pointer().cast_const()).collect();
    let (o, name) = (out.pointer(), format!("{}_{kind}_{pack}", operation.name()));
    let arguments = operation.arguments(dims);
    let whole: Vec<i64> = arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Whole(value) => Some(*value),
            Argument::Real(_) => None,
        })
        .collect();
    // No kernel has a number after a whole one.
    let real = match arguments.first() {
        Some(Argument::Real(value)) => *value,
        _ => f32::NAN,
    };
    // SAFETY: the signatures are those of the file; `Operation::check` has passed for the same inputs.
    unsafe {
        match operation {
            Operation::Silu
            | Operation::QuickGelu
            | Operation::ExactGelu
            | Operation::PartMoments
            | Operation::Spread { .. } => {
                library.get::<unsafe extern "C" fn(In, Out, i64, i64)>(name).unwrap()(p[0], o, rows, width);
            }
            Operation::SiluTimes | Operation::GeluTimes => {
                type Kernel = unsafe extern "C" fn(In, In, Out, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], o, rows, width);
            }
            Operation::RmsNorm { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, Out, i64, i64, f32);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], o, rows, width, real);
            }
            Operation::LayerNorm { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, In, Out, i64, i64, f32);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], p[2], o, rows, width, real);
            }
            Operation::MaskedSoftmax { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, Out, i64, i64, f32, i64, i64);
                let bias = p.get(1).copied().unwrap_or(std::ptr::null());
                library.get::<Kernel>(name).unwrap()(p[0], bias, o, rows, width, real, whole[0], whole[1]);
            }
            Operation::Rotated => {
                type Kernel = unsafe extern "C" fn(In, In, In, Out, i64, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], p[2], o, rows, width, whole[0]);
            }
            Operation::JoinedMoments { .. } => {
                type Kernel = unsafe extern "C" fn(In, Out, i64, i64, f32, i64);
                library.get::<Kernel>(name).unwrap()(p[0], o, rows, width, real, whole[0]);
            }
            Operation::GroupNorm { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, In, In, Out, i64, i64, i64, i64, i64);
                let kernel = library.get::<Kernel>(name).unwrap();
                kernel(p[0], p[1], p[2], p[3], o, rows, width, whole[0], whole[1], whole[2]);
            }
            Operation::PixelSquares => {
                type Kernel = unsafe extern "C" fn(In, Out, i64, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], o, rows, width, whole[0]);
            }
            Operation::ChannelNorm { .. } => {
                type Kernel = unsafe extern "C" fn(In, In, In, Out, i64, i64, i64, i64);
                library.get::<Kernel>(name).unwrap()(p[0], p[1], p[2], o, rows, width, whole[0], whole[1]);
            }
            Operation::Patches(_) => {
                type Kernel = unsafe extern "C" fn(In, Out, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);
                let kernel = library.get::<Kernel>(name).unwrap();
                let w = &whole;
                kernel(p[0], o, rows, width, w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
            }
            other => panic!("{other:?} is of the transformer"),
        }
    }
    out.wide()
}

/// Compares each pack that the sizes allow with the CPU's result, by this part of the largest value.
fn assert_agrees(library: &Library, operation: Operation, kind: &str, inputs: &[&Tensor], tolerance: f32) {
    let result = operation.of(inputs[0], &inputs[1..]).unwrap();
    assert_eq!(result.dtype(), operation.dtype(inputs[0].dtype()), "{operation:?}");
    assert_eq!(result.dims(), operation.dims(inputs[0].dims()), "{operation:?}");
    let unwritten = Values::of(&result).unwritten();
    let expected = Values::of(&result).wide();
    let most = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let largest = operation.pack(inputs[0].dims(), &[0], kind != "float");
    for pack in [1, 4, 8].into_iter().filter(|pack| *pack <= largest) {
        let found = call(library, operation, kind, pack, inputs, unwritten.clone());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() <= tolerance * most,
                "{operation:?} {kind} by {pack} at {at} of {:?}: {found}, expected {expected}",
                inputs[0].dims()
            );
        }
    }
}

/// The number formats, and how far from the CPU's result a value may be: some roundings of float32, one of the narrow format.
const FORMATS: [(DType, &str, f32); 2] = [(DType::F32, "float", 4e-6), (DType::BF16, "bf16", 8e-3)];

#[test]
fn kernels_of_rows_compute_what_the_cpu_computes() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(folder.path());
    let (epsilon, scale) = (1e-6, 0.3);
    for (dtype, kind, tolerance) in FORMATS {
        for width in [16, 12, 6] {
            let agree =
                |operation: Operation, inputs: &[&Tensor]| assert_agrees(&library, operation, kind, inputs, tolerance);
            let (x, other) = (noise(&[5, 3, width], 1, dtype), noise(&[5, 3, width], 2, dtype));
            let [weight, bias] = [3, 4].map(|seed| noise(&[width], seed, dtype));
            let angles = [5, 6].map(|seed| noise(&[5, width / 2], seed, DType::F32));
            agree(Operation::Silu, &[&x]);
            agree(Operation::QuickGelu, &[&x]);
            agree(Operation::ExactGelu, &[&x]);
            agree(Operation::SiluTimes, &[&x, &other]);
            agree(Operation::GeluTimes, &[&x, &other]);
            agree(Operation::RmsNorm { epsilon }, &[&x, &weight]);
            agree(Operation::LayerNorm { epsilon }, &[&x, &weight, &bias]);
            agree(Operation::Rotated, &[&x, &angles[0], &angles[1]]);
            agree(Operation::Spread { width }, &[&weight]);
            let scores = noise(&[4, 5, width], 7, DType::F32);
            for bias_rows in [0, 5, 20] {
                let bias = noise(&[bias_rows.max(1), width], 8, DType::F32);
                let inputs = if bias_rows == 0 {
                    vec![&scores]
                } else {
                    vec![&scores, &bias]
                };
                for queries in [None, Some(5)] {
                    let softmax = Operation::MaskedSoftmax {
                        dtype,
                        scale,
                        queries,
                        bias_rows,
                    };
                    agree(softmax, &inputs);
                }
            }
        }
    }
}

#[test]
fn kernels_of_pictures_compute_what_the_cpu_computes() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(folder.path());
    for (dtype, kind, tolerance) in FORMATS {
        let agree =
            |operation: Operation, inputs: &[&Tensor]| assert_agrees(&library, operation, kind, inputs, tolerance);
        // Two groups of more than two parts, whose last one is shorter; channels of more than one part.
        for (channels, side) in [(4, 72), (2, 5), (70, 4)] {
            let picture = noise(&[2, channels, side, side], 1, dtype);
            let picture = (picture + 1.5).unwrap();
            let [weight, bias] = [2, 3].map(|seed| noise(&[channels], seed, dtype));
            let size = channels / 2 * side * side;
            let groups = picture.reshape((4, size)).unwrap();
            let parts = Operation::PartMoments.of(&groups, &[]).unwrap();
            let joined = Operation::JoinedMoments { epsilon: 1e-6, size };
            let moments = joined.of(&parts, &[]).unwrap();
            let squares = Operation::PixelSquares.of(&picture, &[]).unwrap();
            agree(Operation::PartMoments, &[&groups]);
            assert_agrees(&library, joined, "float", &[&parts], 4e-6);
            agree(Operation::PixelSquares, &[&picture]);
            for then in [Then::Nothing, Then::Silu] {
                agree(
                    Operation::GroupNorm { groups: 2, then },
                    &[&picture, &moments, &weight, &bias],
                );
                agree(Operation::ChannelNorm { then }, &[&picture, &squares, &weight]);
            }
        }
        for (height, width) in [(5, 16), (8, 12), (3, 7)] {
            let picture = noise(&[3, height, width], 1, dtype);
            for (kernel, stride, before, after, scale) in [
                (3, 1, 1, 1, 1),
                (3, 1, 1, 1, 2),
                (3, 2, 0, 1, 1),
                (5, 1, 2, 2, 1),
                (5, 2, 2, 1, 2),
                (3, 1, 0, 0, 1),
                (1, 1, 0, 0, 2),
                (3, 1, 1, 3, 1),
            ] {
                let side = |size: usize| {
                    (size * scale + before + after)
                        .checked_sub(kernel)
                        .map(|rest| rest / stride + 1)
                };
                let (Some(lines), Some(columns)) = (side(height), side(width)) else {
                    continue;
                };
                for (first_line, lines) in [(0, lines), (lines / 2, lines - lines / 2)] {
                    let window = Window {
                        kernel,
                        stride,
                        before,
                        scale,
                        first_line,
                        lines,
                        columns,
                    };
                    assert_agrees(&library, Operation::Patches(window), kind, &[&picture], 0.0);
                }
            }
        }
    }
}
