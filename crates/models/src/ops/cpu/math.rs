//! Scalar functions and row sums that the compiler turns into vector code.
//!
//! All are `#[inline(always)]`, so that they are compiled for the instruction set of the kernel that calls them.

/// Lanes of the partial sums: a fixed number, so that a sum has the same order on every instruction set.
const LANES: usize = 16;

/// e^x, relative error below 2e-7, for x in [-87.3, 88.3]; beyond, the value at the nearer end.
///
/// Range reduction by powers of two and the degree-5 polynomial of Cephes' `expf`.
#[expect(clippy::excessive_precision, reason = "the constants are written as published")]
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_375, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_15e-4_f32;
    let p = p.mul_add(r, 1.398_199_950_7e-3);
    let p = p.mul_add(r, 8.333_451_907_3e-3);
    let p = p.mul_add(r, 4.166_579_589_4e-2);
    let p = p.mul_add(r, 1.666_666_545_9e-1);
    let p = p.mul_add(r, 5.000_000_120_1e-1);
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// 2 sqrt(2 / pi) and the cubic coefficient of the tanh form of GELU.
const GELU_SLOPE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

/// GELU in the tanh form: 0.5 x (1 + tanh(u)) = x sigmoid(2 u), which needs no tanh and loses no digits near zero.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * sigmoid(GELU_SLOPE * x * GELU_CUBIC.mul_add(x * x, 1.0))
}

/// (gelu(x), d gelu / dx).
#[inline(always)]
pub(crate) fn gelu_with_derivative(x: f32) -> (f32, f32) {
    let square = x * x;
    let s = sigmoid(GELU_SLOPE * x * GELU_CUBIC.mul_add(square, 1.0));
    let slope = GELU_SLOPE * (3.0 * GELU_CUBIC).mul_add(square, 1.0);
    (x * s, (x * s * (1.0 - s)).mul_add(slope, s))
}

/// Sum of `term` over the elements of rows of equal length, in a fixed order.
#[inline(always)]
pub(crate) fn sum<const ROWS: usize>(rows: [&[f32]; ROWS], term: impl Fn([f32; ROWS]) -> f32) -> f32 {
    let count = rows[0].len();
    // Slices of known length, so that the loop over lanes has no bounds checks and becomes vector code.
    let rows = rows.map(|row| row[..count].as_chunks::<LANES>());
    let mut lanes = [0.0_f32; LANES];
    for chunk in 0..count / LANES {
        let chunks = rows.map(|(chunks, _)| &chunks[chunk]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(chunks.map(|chunk| chunk[lane]));
        }
    }
    for i in 0..count % LANES {
        lanes[i] += term(rows.map(|(_, rest)| rest[i]));
    }
    fold(lanes, |a, b| a + b)
}

/// Maximum of a row.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = lane.max(*value);
    }
    fold(lanes, f32::max)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Declares a function whose body is compiled for each instruction set and chosen at run time.
///
/// Plain closures would not do: the compiler may leave them out of line, compiled for the oldest processor.
macro_rules! vectorized {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident<'a>($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $visibility fn $name<'a>($($argument: $type),*) {
            struct Call<'a>($($type,)* std::marker::PhantomData<&'a ()>);
            impl<'a> pulp::WithSimd for Call<'a> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Self($($argument,)* _) = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Call($($argument,)* std::marker::PhantomData));
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_has_seven_digits_over_its_whole_range() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn gelu_and_its_derivative_match_the_tanh_form() {
        for i in -12_000..12_000 {
            let x = f64::from(i) / 1000.0;
            let exact =
                |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh());
            let slope = (exact(x + 1e-6) - exact(x - 1e-6)) / 2e-6;
            let (value, derivative) = gelu_with_derivative(x as f32);
            assert!((f64::from(value) - exact(x)).abs() < 1e-6, "{x}");
            assert!((f64::from(gelu(x as f32)) - exact(x)).abs() < 1e-6, "{x}");
            assert!((f64::from(derivative) - slope).abs() < 2e-6, "{x}");
        }
    }

    #[test]
    fn row_sums_and_maxima_take_every_element() {
        for count in [0, 1, 15, 16, 17, 40, 96] {
            let row: Vec<f32> = (0..count).map(|i| ((i * 37) % 11) as f32).collect();
            assert_eq!(sum([&row], |[x]| x), row.iter().sum::<f32>());
            assert_eq!(sum([&row, &row], |[x, y]| x - 2.0 * y), -row.iter().sum::<f32>());
            assert_eq!(max(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
