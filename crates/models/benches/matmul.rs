//! Matrix products alone, at real sizes and at those of the shipped models, on one thread: `cargo bench -p gavel-models --profile dev
//! --bench matmul`. Criterion's elements per second are multiplications and additions per second.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;

#[expect(
    dead_code,
    unused_imports,
    reason = "the module is private to the crate and is compiled in here once more, with its tests"
)]
#[path = "../src/ops/cpu/matmul/mod.rs"]
mod matmul;

#[expect(dead_code, unused_imports, reason = "the module before reads some of it")]
#[path = "../src/ops/fp8.rs"]
mod fp8;

#[expect(dead_code, unused_imports, reason = "the same")]
#[path = "../src/ops/nf4.rs"]
mod nf4;

#[expect(dead_code, unused_imports, reason = "the same")]
#[path = "../src/ops/cpu/math.rs"]
mod math;

/// Where the module looks for them.
mod ops {
    pub(crate) use super::{fp8, nf4};
}

/// Where a quantization looks.
mod cpu {
    pub(crate) use super::math;
}

use matmul::{Flipped, Left, Order, Packed, Right, Start, Threads, product};

/// (rows, inner, columns).
const SHAPES: [(usize, usize, usize); 7] = [
    (1536, 3072, 3072),
    (1536, 3072, 12_288),
    (512, 4096, 4096),
    (512, 4096, 10_240),
    (320, 96, 288),
    (320, 384, 96),
    (64, 64, 96),
];

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect()
}

fn products(criterion: &mut Criterion) {
    for (rows, inner, columns) in SHAPES {
        let mut group = criterion.benchmark_group("matmul");
        group.throughput(Throughput::Elements(2 * (rows * inner * columns) as u64));
        let name = format!("{rows}x{inner}x{columns}");
        let (a, b) = (values(rows * inner), values(inner * columns));
        let left = Left {
            data: &a,
            stride: inner,
            order: Order::RowMajor,
        };
        let mut c = vec![0.0; rows * columns];
        let wide = Packed::new((inner, columns), &b, inner, Order::Transposed);
        group.bench_function(BenchmarkId::new("packed", &name), |bencher| {
            bencher.iter(|| product(rows, left, &wide, Start::Zero, black_box(&mut c), columns, Threads::One));
        });
        let narrow: Vec<bf16> = b.iter().map(|value| bf16::from_f32(*value)).collect();
        let narrow = Packed::new((inner, columns), &narrow, inner, Order::Transposed);
        group.bench_function(BenchmarkId::new("packed bfloat16", &name), |bencher| {
            bencher.iter(|| {
                product(
                    rows,
                    left,
                    &narrow,
                    Start::Zero,
                    black_box(&mut c),
                    columns,
                    Threads::One,
                )
            });
        });
        let backward = Packed::new((columns, inner), &b, columns, Order::Transposed);
        group.bench_function(BenchmarkId::new("packed the other way", &name), |bencher| {
            let weight = Flipped(&backward);
            bencher.iter(|| {
                product(
                    rows,
                    left,
                    &weight,
                    Start::Zero,
                    black_box(&mut c),
                    columns,
                    Threads::One,
                )
            });
        });
        let right = Right {
            data: &b,
            stride: columns,
        };
        group.bench_function(BenchmarkId::new("as it lies", &name), |bencher| {
            let shape = (rows, columns, inner);
            bencher.iter(|| matmul::matmul(shape, left, right, Start::Zero, black_box(&mut c), columns));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1));
    targets = products
}
criterion_main!(benches);
