use std::ops::Range;

use super::*;
use crate::ops::fp8::{self, Fp8Matrix};
use crate::ops::nf4::{self, BLOCK, Nf4Matrix};

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i * 7919 + seed * 104_729) % 1013) as f32 / 506.5) - 1.0)
        .collect()
}

#[test]
fn products_of_all_small_shapes_match_a_plain_sum() {
    for rows in [1, 2, 3, 5, 8, 13] {
        for columns in [1, 4, 15, 16, 17, 32, 48, 64, 96, 111] {
            for inner in [0, 1, 4, 33] {
                let (a, b) = (values(rows * inner, 1), values(inner * columns, 2));
                let a_transposed: Vec<f32> = (0..rows * inner).map(|i| a[(i % rows) * inner + i / rows]).collect();
                let bias = values(columns, 3);
                let expected: Vec<f64> = (0..rows * columns)
                    .map(|i| {
                        let (row, column) = (i / columns, i % columns);
                        let sum: f64 = (0..inner)
                            .map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]))
                            .sum();
                        sum + f64::from(bias[column])
                    })
                    .collect();
                let right = Right {
                    data: &b,
                    stride: columns,
                };
                let plain = Left {
                    data: &a,
                    stride: inner,
                    order: Order::RowMajor,
                };
                let transposed = Left {
                    data: &a_transposed,
                    stride: rows,
                    order: Order::Transposed,
                };
                for left in [plain, transposed] {
                    let mut c = vec![0.0; rows * columns];
                    matmul((rows, columns, inner), left, right, Start::Bias(&bias), &mut c, columns);
                    for (found, expected) in c.iter().zip(&expected) {
                        assert!(
                            (f64::from(*found) - expected).abs() < 1e-5,
                            "{rows} {columns} {inner} {:?}",
                            left.order
                        );
                    }
                    let mut sum: Vec<f32> = (0..rows).flat_map(|_| bias.iter().copied()).collect();
                    matmul(
                        (rows, columns, inner),
                        left,
                        right,
                        Start::Destination,
                        &mut sum,
                        columns,
                    );
                    assert_eq!(sum, c);
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_whatever_rows_surround_it() {
    let (rows, columns, inner) = (29, 75, 61);
    let (a, b) = (values(rows * inner, 4), values(inner * columns, 5));
    let right = Right {
        data: &b,
        stride: columns,
    };
    let product = |rows: usize, data: &[f32]| {
        let mut c = vec![0.0; rows * columns];
        matmul(
            (rows, columns, inner),
            Left {
                data,
                stride: inner,
                order: Order::RowMajor,
            },
            right,
            Start::Zero,
            &mut c,
            columns,
        );
        c
    };
    let together = product(rows, &a);
    for (row, expected) in together.chunks(columns).enumerate() {
        assert_eq!(product(1, &a[row * inner..(row + 1) * inner]), expected);
    }
}

/// Shapes whose rows, columns and inner dimension cross the edges of tiles, strips and panels.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 100, 400),
    (3, 48, 192),
    (7, 49, 193),
    (8, 64, 0),
    (17, 95, 384),
    (33, 7, 385),
    (64, 144, 577),
    (790, 50, 200),
];

/// One chain of fused multiply-adds for each element, in the order of the inner dimension.
fn chains((rows, columns, inner): (usize, usize, usize), a: &[f32], b: &[f32], start: &[f32]) -> Vec<f32> {
    (0..rows * columns)
        .map(|i| {
            let (row, column) = (i / columns, i % columns);
            (0..inner).fold(start[i], |sum, k| {
                a[row * inner + k].mul_add(b[k * columns + column], sum)
            })
        })
        .collect()
}

fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns.max(1);
    (0..matrix.len())
        .map(|i| matrix[(i % rows) * columns + i / rows])
        .collect()
}

#[test]
fn every_way_to_a_product_is_the_same_chain_of_sums() {
    for (rows, columns, inner) in SHAPES {
        let (a, b, bias) = (values(rows * inner, 1), values(inner * columns, 2), values(columns, 3));
        let start: Vec<f32> = (0..rows).flat_map(|_| bias.iter().copied()).collect();
        let expected = chains((rows, columns, inner), &a, &b, &start);
        let (a_across, b_across) = (transposed(&a, inner), transposed(&b, columns));
        let by_row = Left {
            data: &a,
            stride: inner,
            order: Order::RowMajor,
        };
        let by_column = Left {
            data: &a_across,
            stride: rows,
            order: Order::Transposed,
        };
        let shape = (inner, columns);
        let packed = Packed::new(shape, &b, columns, Order::RowMajor);
        let packed_across = Packed::new(shape, &b_across, inner, Order::Transposed);
        let flipped = Packed::new((columns, inner), &b, columns, Order::Transposed);
        let gathered = Gathered {
            shape,
            data: &b,
            stride: columns,
            order: Order::RowMajor,
        };
        let gathered_across = Gathered {
            data: &b_across,
            stride: inner,
            order: Order::Transposed,
            ..gathered
        };
        for left in [by_row, by_column] {
            for threads in [Threads::One, Threads::All] {
                let check = |what: &str, compute: &dyn Fn(Start, &mut [f32])| {
                    let mut from_bias = vec![f32::NAN; rows * columns];
                    compute(Start::Bias(&bias), &mut from_bias);
                    let mut from_destination = start.clone();
                    compute(Start::Destination, &mut from_destination);
                    assert!(
                        from_bias == expected && from_destination == expected,
                        "{what} {rows} {columns} {inner}"
                    );
                };
                check("packed", &|start, to| {
                    product(rows, left, &packed, start, to, columns, threads)
                });
                check("packed transposed", &|start, to| {
                    product(rows, left, &packed_across, start, to, columns, threads);
                });
                check("flipped", &|start, to| {
                    product(rows, left, &Flipped(&flipped), start, to, columns, threads);
                });
                check("gathered", &|start, to| {
                    product(rows, left, &gathered, start, to, columns, threads)
                });
                check("gathered transposed", &|start, to| {
                    product(rows, left, &gathered_across, start, to, columns, threads);
                });
                let right = Right {
                    data: &b,
                    stride: columns,
                };
                check("as it lies", &|start, to| {
                    matmul_on(threads, (rows, columns, inner), left, right, start, to, columns);
                });
            }
        }
        assert_eq!(packed.unpack(), b);
        assert_eq!(packed.flip().unpack(), b_across);
    }
}

#[test]
fn a_narrow_weight_is_the_float32_weight_with_its_numbers() {
    let (rows, columns, inner) = (11, 70, 250);
    let (a, b) = (values(rows * inner, 1), values(inner * columns, 2));
    let left = Left {
        data: &a,
        stride: inner,
        order: Order::RowMajor,
    };
    let compute = |packed: &Packed| {
        let mut c = vec![0.0; rows * columns];
        product(rows, left, packed, Start::Zero, &mut c, columns, Threads::All);
        c
    };
    let shape = (inner, columns);
    let narrow: Vec<half::bf16> = b.iter().map(|value| half::bf16::from_f32(*value)).collect();
    let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
    let packed = Packed::new(shape, &narrow, columns, Order::RowMajor);
    assert_eq!(
        compute(&packed),
        compute(&Packed::new(shape, &wide, columns, Order::RowMajor))
    );
    let narrow: Vec<half::f16> = b.iter().map(|value| half::f16::from_f32(*value)).collect();
    let wide: Vec<f32> = narrow.iter().map(|value| value.to_f32()).collect();
    let packed = Packed::new(shape, &narrow, columns, Order::RowMajor);
    assert_eq!(
        compute(&packed),
        compute(&Packed::new(shape, &wide, columns, Order::RowMajor))
    );
}

#[test]
fn a_weight_that_is_packed_row_by_row_is_the_one_that_is_packed_whole() {
    // The last is packed by several threads.
    for (_, outputs, inputs) in SHAPES.into_iter().chain([(1, 1100, 1000)]) {
        let numbers = values(outputs * inputs, 2);
        let read =
            |rows: Range<usize>, to: &mut [f32]| to.copy_from_slice(&numbers[rows.start * inputs..rows.end * inputs]);
        let (shape, whole) = ((outputs, inputs), (inputs, outputs));
        let wide = Packed::of_rows::<f32>(shape, read).unpack();
        assert_eq!(wide, Packed::new(whole, &numbers, inputs, Order::Transposed).unpack());
        let narrow: Vec<half::bf16> = numbers.iter().map(|value| half::bf16::from_f32(*value)).collect();
        let rounded = Packed::of_rows::<half::bf16>(shape, read).unpack();
        assert_eq!(rounded, Packed::new(whole, &narrow, inputs, Order::Transposed).unpack());
    }
}

/// The values of a weight (outputs, inputs) in 8 bits, and the weight.
fn in_8_bits(outputs: usize, inputs: usize) -> (Vec<f32>, Packed) {
    let matrix = Fp8Matrix::of(&values(outputs * inputs, 2), inputs);
    let numbers = matrix.bytes().iter().enumerate();
    let wide = numbers.map(|(at, byte)| fp8::widen(*byte) * matrix.scales()[at / inputs]);
    (wide.collect(), Packed::fp8(&matrix))
}

/// The same in 4 bits.
fn in_4_bits(outputs: usize, inputs: usize) -> (Vec<f32>, Packed) {
    let matrix = Nf4Matrix::of(&values(outputs * inputs, 2), inputs);
    let blocks = inputs.div_ceil(BLOCK);
    let wide = (0..outputs * inputs).map(|at| {
        let (row, column) = (at / inputs, at % inputs);
        nf4::widen(matrix.number(row, column)) * matrix.scales()[row * blocks + column / BLOCK]
    });
    (wide.collect(), Packed::nf4(&matrix))
}

/// Forwards and backwards, across the edges of tiles, strips, panels and blocks.
#[test]
fn a_quantized_weight_is_the_float32_weight_with_its_numbers() {
    let shapes = || SHAPES.into_iter().filter(|(_, _, inputs)| *inputs > 0);
    let eight = shapes().map(|(rows, outputs, inputs)| ((rows, outputs, inputs), in_8_bits(outputs, inputs)));
    let even = shapes().map(|(rows, outputs, inputs)| (rows, outputs, inputs.next_multiple_of(2)));
    let four = even.map(|(rows, outputs, inputs)| ((rows, outputs, inputs), in_4_bits(outputs, inputs)));
    for ((rows, outputs, inputs), (wide, narrow)) in eight.chain(four) {
        assert_eq!((narrow.shape(), narrow.is_quantized()), ((inputs, outputs), true));
        assert_eq!(narrow.unpack(), transposed(&wide, inputs));
        let compute = |packed: &dyn Fn(Left, &mut [f32]), columns: usize, inner: usize| {
            let (mut c, data) = (vec![0.0; rows * columns], values(rows * inner, 1));
            let left = Left {
                data: &data,
                stride: inner,
                order: Order::RowMajor,
            };
            packed(left, &mut c);
            c
        };
        let packed = Packed::new((inputs, outputs), &wide, inputs, Order::Transposed);
        let forward = |weight: &Packed| {
            let by = |left: Left, c: &mut [f32]| product(rows, left, weight, Start::Zero, c, outputs, Threads::All);
            compute(&by, outputs, inputs)
        };
        assert_eq!(forward(&narrow), forward(&packed));
        let backward = |weight: &Packed| {
            let weight = Flipped(weight);
            let by = |left: Left, c: &mut [f32]| product(rows, left, &weight, Start::Zero, c, inputs, Threads::All);
            compute(&by, inputs, outputs)
        };
        assert_eq!(backward(&narrow), backward(&packed));
    }
}

#[test]
fn every_float16_widens_exactly() {
    let every: Vec<half::f16> = (0..=u16::MAX).map(half::f16::from_bits).collect();
    let found = Packed::new((1, every.len()), &every, every.len(), Order::RowMajor).unpack();
    for (value, found) in every.iter().zip(found) {
        let expected = value.to_f32();
        assert!(
            found == expected || (found.is_nan() && expected.is_nan()),
            "{:#06x}",
            value.to_bits()
        );
    }
}
