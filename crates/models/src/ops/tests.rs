//! Each operation's gradient against finite differences, and the fused kernels against the plain candle operations.

use candle_core::{DType, Device, Tensor};

use super::candle::CandleOps;
use super::cpu::{Cpu, Split};
use super::fp8::Fp8Matrix;
use super::nf4::Nf4Matrix;
use super::{Attention, Backend, Factors, FrozenWeight, GradientSums, Layout, Modulation, Queries, Segment};

const LAYOUT: Layout = Layout {
    batch: 2,
    text: 3,
    image: 5,
    source: 2,
};
const DIM: usize = 24;
const HEAD_DIM: usize = 12;

/// Half the step of a central difference, and the relative error allowed: the truncation error of the step is about its
/// square, the rounding error of float32 about 1e-7 divided by it.
const STEP: f32 = 5e-3;
const TOLERANCE: f64 = 3e-3;

/// Values that look random in [-1, 1].
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        })
        .collect()
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn array<B: Backend>(b: &B, values: &[f32], columns: usize) -> B::Array {
    b.array(&tensor(values, &[values.len() / columns, columns])).unwrap()
}

fn values<B: Backend>(b: &B, array: &B::Array) -> Vec<f32> {
    let tensor = b.tensor(array.clone()).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn flattened(sums: GradientSums, parameters: usize) -> Vec<f32> {
    match sums {
        GradientSums::Flat(values) => values,
        GradientSums::Factors(factors) => {
            let mut flat = vec![0.0; parameters];
            for (offset, factor) in factors {
                let values: Vec<f32> = factor.flatten_all().unwrap().to_vec1().unwrap();
                flat[offset..offset + values.len()].copy_from_slice(&values);
            }
            flat
        }
    }
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// Compares <vjp(grad), u> with the central difference of <forward(x), grad> along a direction u, for three directions.
fn check_vjp(what: &str, x: &[f32], forward: impl Fn(&[f32]) -> Vec<f32>, vjp: impl Fn(&[f32]) -> Vec<f32>) {
    let grad = noise(forward(x).len(), 99);
    let gradient = vjp(&grad);
    for seed in 0..3 {
        let direction = noise(x.len(), 1000 + seed);
        let at = |step: f32| {
            let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, u)| x + step * u).collect();
            dot(&forward(&moved), &grad)
        };
        let difference = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
        let scale = gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>() / (x.len() as f64).sqrt();
        let error = (dot(&gradient, &direction) - difference).abs();
        assert!(
            error <= TOLERANCE * scale.max(1e-3),
            "{what}: {} against {difference}",
            dot(&gradient, &direction)
        );
    }
}

/// What an operation computes: (output, gradient) pairs by name.
type Results = Vec<(&'static str, Vec<f32>)>;

/// Runs all operations on one backend, checks their gradients, and returns what they computed.
fn run<B: Backend>(b: &B) -> Results {
    let mut results = Results::new();
    for source in [Source::AsTarget, Source::Apart] {
        modulated_ops(b, source, &mut results);
    }
    rowwise_ops(b, &mut results);
    for weights in [Weights::Whole, Weights::Fp8, Weights::Nf4] {
        linear_ops(b, weights, &mut results);
    }
    attention_ops(b, &mut results);
    results
}

/// How the tokens of sources are modulated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    AsTarget,
    Apart,
}

fn modulated_ops<B: Backend>(b: &B, source: Source, results: &mut Results) {
    let rows = LAYOUT.rows();
    let array = |values: &[f32], columns: usize| array(b, values, columns);
    let values = |x: &B::Array| values(b, x);
    let [text, image, apart] = [1, 2, 7].map(|seed| array(&noise(2 * 3 * DIM, seed), 3 * DIM));
    let modulation = Modulation {
        text: &text,
        image: &image,
        source: (source == Source::Apart).then_some(&apart),
    };
    let x = noise(rows * DIM, 3);

    let norm = |x: &[f32]| values(&b.modulated_norm(&array(x, DIM), LAYOUT, modulation, 0, 1).unwrap());
    let norm_vjp = |grad: &[f32]| {
        values(
            &b.modulated_norm_vjp(&array(&x, DIM), LAYOUT, modulation, 1, &array(grad, DIM), None)
                .unwrap(),
        )
    };
    check_vjp("modulated norm", &x, norm, norm_vjp);
    results.push(("modulated norm", norm(&x)));
    let residual = Some(array(&noise(rows * DIM, 4), DIM));
    let added = b.modulated_norm_vjp(
        &array(&x, DIM),
        LAYOUT,
        modulation,
        1,
        &array(&noise(rows * DIM, 5), DIM),
        residual,
    );
    results.push(("modulated norm vjp with residual", values(&added.unwrap())));

    let y = noise(rows * DIM, 6);
    let gated = |y: &[f32]| {
        values(
            &b.gated_residual(&array(&x, DIM), &array(y, DIM), LAYOUT, modulation, 2)
                .unwrap(),
        )
    };
    let gated_vjp = |grad: &[f32]| values(&b.gated_residual_vjp(&array(grad, DIM), LAYOUT, modulation, 2).unwrap());
    check_vjp("gated residual", &y, gated, gated_vjp);
    results.push(("gated residual", gated(&y)));
}

fn rowwise_ops<B: Backend>(b: &B, results: &mut Results) {
    let array = |values: &[f32], columns: usize| array(b, values, columns);
    let values = |x: &B::Array| values(b, x);
    let (x, y) = (noise(LAYOUT.rows() * DIM, 3), noise(LAYOUT.rows() * DIM, 6));

    let wide: Vec<f32> = x.iter().map(|x| 3.0 * x).collect();
    let gelu = |x: &[f32]| values(&b.gelu(&array(x, DIM)).unwrap());
    let gelu_vjp = |grad: &[f32]| values(&b.gelu_vjp(&array(&wide, DIM), &array(grad, DIM)).unwrap().1);
    check_vjp("gelu", &wide, gelu, gelu_vjp);
    results.push(("gelu", gelu(&wide)));
    assert_eq!(
        values(&b.gelu_vjp(&array(&wide, DIM), &array(&x, DIM)).unwrap().0),
        gelu(&wide)
    );
    results.push(("silu", values(&b.silu(&array(&wide, DIM)).unwrap())));
    results.push(("add", values(&b.add(array(&x, DIM), &array(&y, DIM)).unwrap())));
    results.push((
        "concat rows",
        values(&b.concat_rows(&[&array(&x, DIM), &array(&y, DIM)]).unwrap()),
    ));
    let joined = b.concat_columns(&array(&x, DIM), &array(&y, DIM)).unwrap();
    results.push(("concat columns", values(&joined)));
    results.push(("columns", values(&b.columns(&joined, 5..31).unwrap())));
    results.push(("rows", values(&b.rows(&joined, LAYOUT.image_rows()).unwrap())));
}

/// Outputs of the two fused parts of the tested layer, and its rank.
const PARTS: [usize; 2] = [20, 16];
const RANK: usize = 3;

/// How the weights of the tested layers are kept.
#[derive(Clone, Copy)]
enum Weights {
    Whole,
    Fp8,
    Nf4,
}

fn linear_ops<B: Backend>(b: &B, weights: Weights, results: &mut Results) {
    let outputs: usize = PARTS.iter().sum();
    let layer = |seed| {
        let numbers = noise(outputs * DIM, seed);
        let weight = match weights {
            Weights::Whole => FrozenWeight::Whole(tensor(&numbers, &[outputs, DIM])),
            Weights::Fp8 => FrozenWeight::Fp8(Fp8Matrix::of(&numbers, DIM)),
            Weights::Nf4 => FrozenWeight::Nf4(Nf4Matrix::of(&numbers, DIM)),
        };
        b.projection(&weight, &tensor(&noise(outputs, seed + 1), &[outputs]))
            .unwrap()
    };
    let (text, image) = (layer(10), layer(12));
    // The text layer's second part has an adapter, the image layer's parts both have; all factors in one flat vector.
    let columns = [0..PARTS[0], PARTS[0]..outputs];
    let adapted_parts = [(0, 1), (1, 0), (1, 1)];
    let sizes = adapted_parts.map(|(_, part)| RANK * (DIM + PARTS[part]));
    let flat = noise(sizes.iter().sum(), 14);
    let run = |flat: &[f32], x: &[f32], grad: Option<&[f32]>| -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut start = 0;
        let mut factors = [Vec::new(), Vec::new()];
        for ((layer, part), size) in adapted_parts.into_iter().zip(sizes) {
            let middle = start + RANK * DIM;
            factors[layer].push(Factors {
                columns: columns[part].clone(),
                rank: RANK,
                scale: 0.7,
                a: &flat[start..middle],
                b: &flat[middle..start + size],
                a_offset: start,
                b_offset: middle,
            });
            start += size;
        }
        let adapted = [
            b.adapt(&text, &factors[0]).unwrap(),
            b.adapt(&image, &factors[1]).unwrap(),
        ];
        let segments = [
            Segment::<B> {
                rows: LAYOUT.text_rows(),
                projection: &text,
                adapted: Some(&adapted[0]),
            },
            Segment::<B> {
                rows: LAYOUT.image_rows(),
                projection: &image,
                adapted: Some(&adapted[1]),
            },
        ];
        let x = array(b, x, DIM);
        let y = values(b, &b.linear(&x, &segments).unwrap());
        let Some(grad) = grad else {
            return (y, Vec::new(), Vec::new());
        };
        let grad = array(b, grad, outputs);
        let mut gradients = b.gradients(flat.len());
        b.lora_vjp(&x, &segments, &grad, &mut gradients).unwrap();
        let sums = b.total(vec![gradients]).unwrap();
        (
            y,
            values(b, &b.linear_vjp(&segments, &grad).unwrap()),
            flattened(sums, flat.len()),
        )
    };
    let x = noise(LAYOUT.rows() * DIM, 15);
    check_vjp(
        "lora linear, input",
        &x,
        |x| run(&flat, x, None).0,
        |grad| run(&flat, &x, Some(grad)).1,
    );
    check_vjp(
        "lora linear, factors",
        &flat,
        |flat| run(flat, &x, None).0,
        |grad| run(&flat, &x, Some(grad)).2,
    );
    let (y, dx, gradients) = run(&flat, &x, Some(&noise(LAYOUT.rows() * outputs, 16)));
    results.extend([
        ("lora linear", y),
        ("lora linear vjp", dx),
        ("lora gradients", gradients),
    ]);
}

fn attention_ops<B: Backend>(b: &B, results: &mut Results) {
    let norm = |seed| {
        let weights = |seed| {
            tensor(
                &noise(HEAD_DIM, seed).iter().map(|w| 1.0 + 0.5 * w).collect::<Vec<_>>(),
                &[HEAD_DIM],
            )
        };
        b.head_norm(&weights(seed), &weights(seed + 1)).unwrap()
    };
    let (text_norm, image_norm) = (norm(20), norm(22));
    let tokens = LAYOUT.text + LAYOUT.image;
    let angles: Vec<f64> = noise(tokens * HEAD_DIM / 2, 24)
        .iter()
        .map(|angle| 3.0 * f64::from(*angle))
        .collect();
    let rotary = b.rotary(&angles, tokens).unwrap();
    let x = noise(LAYOUT.rows() * 3 * DIM, 25);
    let qkv = |x: &[f32]| array(b, x, 3 * DIM);
    for (name, queries) in [
        ("attention", Queries::All),
        ("attention of image queries", Queries::Image),
    ] {
        let op = Attention {
            layout: LAYOUT,
            queries,
            text_norm: &text_norm,
            image_norm: &image_norm,
            rotary: &rotary,
        };
        let forward = |x: &[f32]| values(b, &b.attention(&qkv(x), &op).unwrap().0);
        let vjp = |grad: &[f32]| {
            let (output, log_sum_exp) = b.attention(&qkv(&x), &op).unwrap();
            let grad = array(b, grad, DIM);
            values(
                b,
                &b.attention_vjp(&qkv(&x), &op, &output, &log_sum_exp, &grad).unwrap(),
            )
        };
        check_vjp(name, &x, forward, vjp);
        results.push((name, forward(&x)));
        results.push((name, vjp(&noise(forward(&x).len(), 26))));
    }
}

#[test]
fn gradients_match_finite_differences_and_both_backends_agree() {
    let fused = run(&Cpu { split: Split::Never });
    assert_eq!(
        fused,
        run(&Cpu { split: Split::Rows }),
        "sharing rows among threads changes a result"
    );
    let reference = run(&CandleOps::<Tensor> {
        place: Device::Cpu,
        dtype: DType::F32,
    });
    assert_eq!(fused.len(), reference.len());
    for ((name, fused), (_, reference)) in fused.iter().zip(&reference) {
        assert_eq!(fused.len(), reference.len(), "{name}");
        let largest = reference
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (fused, reference) in fused.iter().zip(reference) {
            assert!(
                (fused - reference).abs() <= 1e-5 * largest,
                "{name}: {fused} against {reference}"
            );
        }
    }
}

#[test]
fn the_tokens_of_sources_alone_take_their_own_modulation() {
    let backend = Cpu { split: Split::Never };
    let zeros = array(&backend, &[0.0; 2 * DIM], DIM);
    let gates = array(&backend, &[vec![1.0; DIM], vec![2.0; DIM]].concat(), DIM);
    let modulation = Modulation {
        text: &zeros,
        image: &zeros,
        source: Some(&gates),
    };
    let ones = array(&backend, &vec![1.0; LAYOUT.rows() * DIM], DIM);
    let gated = backend.gated_residual_vjp(&ones, LAYOUT, modulation, 0).unwrap();
    let rows: Vec<f32> = values(&backend, &gated).chunks(DIM).map(|row| row[0]).collect();
    // Three text tokens of two samples, then three tokens of a target and two of sources, twice.
    let image = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 2.0, 2.0];
    assert_eq!(rows, [&[0.0; 6][..], &image].concat());
}

#[test]
fn attention_over_more_queries_than_a_block_holds_matches_plain_operations() {
    let layout = Layout {
        batch: 1,
        text: 5,
        image: 300,
        source: 0,
    };
    let weights = tensor(&[1.0; HEAD_DIM], &[HEAD_DIM]);
    let inputs = noise(layout.rows() * 3 * HEAD_DIM, 30);
    let grad = noise(layout.rows() * HEAD_DIM, 31);
    fn run<B: Backend>(b: &B, layout: Layout, weights: &Tensor, inputs: &[f32], grad: &[f32]) -> Vec<f32> {
        let norm = b.head_norm(weights, weights).unwrap();
        let rotary = b
            .rotary(&vec![0.3; layout.rows() * HEAD_DIM / 2], layout.rows())
            .unwrap();
        let op = Attention {
            layout,
            queries: Queries::All,
            text_norm: &norm,
            image_norm: &norm,
            rotary: &rotary,
        };
        let qkv = array(b, inputs, 3 * HEAD_DIM);
        let (output, sums) = b.attention(&qkv, &op).unwrap();
        let grad = array(b, grad, HEAD_DIM);
        let gradient = b.attention_vjp(&qkv, &op, &output, &sums, &grad).unwrap();
        [values(b, &output), values(b, &gradient)].concat()
    }
    let fused = run(&Cpu { split: Split::Rows }, layout, &weights, &inputs, &grad);
    let reference = run(
        &CandleOps::<Tensor> {
            place: Device::Cpu,
            dtype: DType::F32,
        },
        layout,
        &weights,
        &inputs,
        &grad,
    );
    let largest = reference
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(
        fused
            .iter()
            .zip(&reference)
            .all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
    );
}
