//! The layers, by the CPU's kernels and by those for GPUs, against candle's tensor calls in float64.

mod reference;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::{ModelError, ops::Kernels};

/// float32 sums of a few hundred products of numbers around one.
const TOLERANCE: f64 = 2e-5;

/// Pseudo-random values in [-1, 1), the same on every run.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn wide(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F64).unwrap()
}

fn assert_close(found: Result<Tensor, ModelError>, reference: &Tensor, what: &str) {
    let found = found.unwrap();
    assert_eq!(found.dims(), reference.dims(), "{what}");
    let flat = |tensor: &Tensor| wide(&tensor.flatten_all().unwrap()).to_vec1::<f64>().unwrap();
    for (a, b) in flat(&found).iter().zip(flat(reference)) {
        assert!((a - b).abs() <= TOLERANCE * (1.0 + b.abs()), "{what}: {a} {b}");
    }
}

/// What a layer may take: the CPU's kernels, and what runs on GPUs.
const BOTH: [Kernels; 2] = [Kernels::Fastest, Kernels::Candle];

#[test]
fn linear_layers_agree() {
    for (rows, inputs, outputs) in [(1, 5, 3), (7, 33, 20), (70, 700, 900), (1, 4000, 9000)] {
        let (weight, bias) = (random(1, &[outputs, inputs]), random(2, &[outputs]));
        let x = (random(3, &[rows, inputs]) / (inputs as f64).sqrt()).unwrap();
        let reference = reference::linear(&wide(&x), &wide(&weight), &wide(&bias)).unwrap();
        for kernels in BOTH {
            let layer = Linear::new(&weight, Some(bias.clone()), kernels).unwrap();
            assert_close(
                layer.forward(&x),
                &reference,
                &format!("{kernels:?} {rows} {inputs} {outputs}"),
            );
        }
    }
}

#[test]
fn convolutions_agree() {
    let shapes = [
        ConvShape::same(3, 5, 3),
        ConvShape::same(4, 2, 1),
        ConvShape::halving(3),
        ConvShape {
            inputs: 2,
            outputs: 3,
            kernel: 5,
            stride: 2,
            before: 2,
            after: 1,
        },
    ];
    for shape in shapes {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            ..
        } = shape;
        let (weight, bias) = (random(1, &[outputs, inputs, kernel, kernel]), random(2, &[outputs]));
        for (height, width) in [(4, 4), (7, 12), (9, 130)] {
            let x = random(3, &[2, inputs, height, width]);
            for upsampling in [Upsampling::None, Upsampling::Nearest2] {
                let reference =
                    reference::convolution(&wide(&x), &wide(&weight), &wide(&bias), shape, upsampling).unwrap();
                for kernels in BOTH {
                    let layer = Conv2d::new(weight.clone(), bias.clone(), shape, kernels);
                    let what = format!("{kernels:?} {shape:?} {height}x{width} {upsampling:?}");
                    assert_close(layer.forward(&x, upsampling), &reference, &what);
                }
            }
        }
    }
}

#[test]
fn group_norms_agree_on_shifted_values() {
    for (channels, groups, size) in [(6, 3, 5), (4, 1, 90), (8, 8, 3)] {
        let (weight, bias) = (random(1, &[channels]), random(2, &[channels]));
        let x = (random(3, &[2, channels, size, size]) + 3.0).unwrap();
        for then in [Then::Nothing, Then::Silu] {
            let reference = reference::group_norm(&wide(&x), &wide(&weight), &wide(&bias), groups, 1e-6, then).unwrap();
            for kernels in BOTH {
                let layer = GroupNorm::new(weight.clone(), bias.clone(), groups, 1e-6, kernels);
                assert_close(
                    layer.forward(&x, then),
                    &reference,
                    &format!("{kernels:?} {channels} {then:?}"),
                );
            }
        }
    }
}

#[test]
fn channel_norms_agree_also_on_black_pixels() {
    // More pixels than a kernel takes at a time, and fewer; more channels than one sum of squares has, and fewer.
    for (channels, height, width) in [(5, 3, 7), (3, 40, 70), (70, 3, 2)] {
        let gamma = random(1, &[channels]);
        let x = random(2, &[2, channels, height, width]);
        let x = Tensor::cat(&[&x, &x.zeros_like().unwrap()], 3).unwrap();
        for then in [Then::Nothing, Then::Silu] {
            let reference = reference::channel_norm(&wide(&x), &wide(&gamma), then).unwrap();
            for kernels in BOTH {
                let layer = ChannelNorm::new(gamma.clone(), kernels);
                assert_close(
                    layer.forward(&x, then),
                    &reference,
                    &format!("{kernels:?} {channels} {then:?}"),
                );
            }
        }
    }
}

#[test]
fn row_norms_agree() {
    let (weight, bias, x) = (random(1, &[37]), random(2, &[37]), (random(3, &[5, 37]) + 0.5).unwrap());
    let layer_reference = reference::layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-5).unwrap();
    let rms_reference = reference::rms_norm(&wide(&x), &wide(&weight), 1e-6).unwrap();
    for kernels in BOTH {
        let norm = LayerNorm::new(weight.clone(), bias.clone(), 1e-5, kernels);
        assert_close(norm.forward(&x), &layer_reference, &format!("layer norm, {kernels:?}"));
        let norm = RmsNorm::new(weight.clone(), 1e-6, kernels);
        assert_close(norm.forward(&x), &rms_reference, &format!("rms norm, {kernels:?}"));
    }
}

#[test]
fn activations_agree() {
    use Activation::{Gelu, GeluTanh, QuickGelu, Relu, Silu};
    let (gate, up) = (random(1, &[3, 50]), random(2, &[3, 50]));
    for activation in [Silu, Gelu, GeluTanh, QuickGelu, Relu] {
        let reference = reference::activation(activation, &wide(&gate)).unwrap();
        let product = (&reference * wide(&up)).unwrap();
        for kernels in BOTH {
            let what = format!("{activation:?} {kernels:?}");
            assert_close(activation.forward(kernels, &gate), &reference, &what);
            assert_close(gated(activation, kernels, &gate, &up), &product, &what);
        }
    }
}

#[test]
fn attentions_agree() {
    let (tokens, heads, kv_heads, head_dim) = (150, 4, 2, 10);
    let k = random(2, &[tokens, kv_heads * head_dim]);
    let v = random(3, &[tokens, kv_heads * head_dim]);
    let windows = [0..64, 64..70, 70..150];
    let alike = [0..40, 40..80, 80..120, 120..135, 135..150];
    for queries in [150, 1, 67] {
        let q = random(1, &[queries, heads * head_dim]);
        let bias = random(5, &[heads, queries, tokens]);
        let masks = if queries == tokens {
            vec![Mask::Causal, Mask::Segments(&windows), Mask::Segments(&alike)]
        } else {
            vec![Mask::Causal]
        };
        for mask in masks {
            for bias in [None, Some(&bias)] {
                let wide_bias = bias.map(wide);
                let scores = reference::Scores {
                    heads,
                    kv_heads,
                    scale: 0.7,
                    mask,
                    bias: wide_bias.as_ref(),
                };
                let reference = reference::attention(scores, &wide(&q), &wide(&k), &wide(&v)).unwrap();
                for kernels in BOTH {
                    let shape = Attention {
                        heads,
                        kv_heads,
                        scale: 0.7,
                        mask,
                        bias,
                        kernels,
                    };
                    let what = format!("{kernels:?} {queries} {mask:?} {}", bias.is_some());
                    assert_close(attention(shape, &q, &k, &v), &reference, &what);
                }
            }
        }
    }
}

#[test]
fn rotations_agree() {
    let (tokens, heads, head_dim) = (12, 3, 10);
    let table = random(4, &[tokens, head_dim / 2]);
    let angles: Vec<f32> = table.flatten_all().unwrap().to_vec1().unwrap();
    for (rows, first) in [(12, 0), (5, 7), (1, 11)] {
        // A column range of a wider matrix, as one part of a joint projection is.
        let x = random(1, &[rows, 2 * heads * head_dim])
            .narrow(1, 30, heads * head_dim)
            .unwrap();
        let reference = reference::rotated(&wide(&x), &wide(&table), first).unwrap();
        for kernels in BOTH {
            let rotary = Rotary::new(&angles, tokens, &Device::Cpu, kernels).unwrap();
            assert_close(
                rotary.rotate(&x, first),
                &reference,
                &format!("{kernels:?} {rows} from {first}"),
            );
        }
    }
}

#[test]
fn a_slice_of_columns_is_read_in_place() {
    let fused = random(1, &[9, 12]);
    let part = |i: usize| fused.narrow(1, 4 * i, 4).unwrap();
    let rows = 0..9;
    let shape = Attention {
        heads: 2,
        kv_heads: 2,
        scale: 1.0,
        mask: Mask::Segments(std::slice::from_ref(&rows)),
        bias: None,
        kernels: Kernels::Fastest,
    };
    let copied = |i: usize| part(i).contiguous().unwrap();
    assert_close(
        attention(shape, &part(0), &part(1), &part(2)),
        &attention(shape, &copied(0), &copied(1), &copied(2)).unwrap(),
        "columns",
    );
}

/// A half-precision tensor of a value with more digits than bfloat16 has.
fn half(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::BF16).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (wide(a) - wide(b)).unwrap().abs().unwrap();
    difference
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar::<f64>()
        .unwrap()
}

/// Large keys, as Qwen2.5's biases make them, have scores of hundreds, whose differences bfloat16 does not hold.
#[test]
fn scores_of_half_precision_keys_keep_float32_digits() {
    let (tokens, head_dim) = (6, 64);
    let q = half(&(random(1, &[tokens, head_dim]) + 4.0).unwrap());
    let k = half(&(random(2, &[tokens, head_dim]) + 4.0).unwrap());
    let v = half(&random(3, &[tokens, head_dim]));
    let rows = 0..tokens;
    let shape = Attention {
        heads: 1,
        kv_heads: 1,
        scale: 0.125,
        mask: Mask::Segments(std::slice::from_ref(&rows)),
        bias: None,
        kernels: Kernels::Candle,
    };
    let found = attention(shape, &q, &k, &v).unwrap();
    let scores = reference::Scores {
        heads: 1,
        kv_heads: 1,
        scale: 0.125,
        mask: shape.mask,
        bias: None,
    };
    let exact = reference::attention(scores, &wide(&q), &wide(&k), &wide(&v)).unwrap();
    let off = largest_difference(&found, &exact);
    assert!(off < 6e-3, "off by {off}; scores rounded to bfloat16 lead further away");
}

/// PyTorch computes activations of half types in float32 and rounds once.
#[test]
fn activations_of_half_types_are_rounded_once() {
    let x = half(&(random(1, &[999]) * 6.0).unwrap());
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
        let exact = reference::activation(activation, &wide(&x)).unwrap();
        let found = activation.forward(Kernels::Candle, &x).unwrap();
        let errors = |y: &Tensor| largest_difference(y, &exact);
        assert!(errors(&found) <= errors(&half(&exact)) * 1.001, "{activation:?}");
    }
}
