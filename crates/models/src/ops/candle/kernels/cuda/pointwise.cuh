// Each value of what others at its place give. Bound by memory: every value is read and written once.
#pragma once
#include "packs.cuh"

INLINE float sigmoid(float x) { return 1.0f / (1.0f + power(-x)); }

// x * sigmoid(slope * x * (1 + cubic * x * x)): the tanh form of GELU.
constexpr float GELU_SLOPE = 1.5957691216057307f;
constexpr float GELU_CUBIC = 0.044715f;

INLINE float gelu_gate(float x) { return 1.0f / (1.0f + power(-GELU_SLOPE * x * (1.0f + GELU_CUBIC * x * x))); }

template <typename T, int V> INLINE void gelu(const T *x, T *y, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float out[V];
        for (int k = 0; k < V; k++) out[k] = wide(of.of[k]) * gelu_gate(wide(of.of[k]));
        write<V>(y, row * width + i, out);
    }
}

// out: (2, rows, width), GELU of x and the gradient of x.
template <typename T, int V>
INLINE void gelu_vjp(const T *x, const T *grad, T *out, long row, long rows, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(grad, row * width + i);
        float value[V], gradient[V];
        for (int k = 0; k < V; k++) {
            const float v = wide(of.of[k]), gate = gelu_gate(v);
            value[k] = v * gate;
            const float slope = GELU_SLOPE * (1.0f + 3.0f * GELU_CUBIC * v * v);
            gradient[k] = wide(by.of[k]) * (gate + value[k] * (1.0f - gate) * slope);
        }
        write<V>(out, row * width + i, value);
        write<V>(out, (rows + row) * width + i, gradient);
    }
}

// x + bias, with bias (width).
template <typename T, int V> INLINE void biased(const T *x, const T *bias, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto a = read<V>(x, row * width + i), b = read<V>(bias, i);
        float sum[V];
        for (int k = 0; k < V; k++) sum[k] = wide(a.of[k]) + wide(b.of[k]);
        write<V>(out, row * width + i, sum);
    }
}

// x + delta, with the rows of delta in float32.
template <typename T, int V> INLINE void added(const T *x, const float *delta, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto a = read<V>(x, row * width + i);
        const auto d = read<V>(delta, row * width + i);
        float sum[V];
        for (int k = 0; k < V; k++) sum[k] = wide(a.of[k]) + d.of[k];
        write<V>(out, row * width + i, sum);
    }
}

// x + bias + delta.
template <typename T, int V>
INLINE void biased_added(const T *x, const T *bias, const float *delta, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto a = read<V>(x, row * width + i), b = read<V>(bias, i);
        const auto d = read<V>(delta, row * width + i);
        float sum[V];
        for (int k = 0; k < V; k++) sum[k] = wide(a.of[k]) + wide(b.of[k]) + d.of[k];
        write<V>(out, row * width + i, sum);
    }
}

// x in float32.
template <typename T, int V> INLINE void widened(const T *x, float *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) value[k] = wide(of.of[k]);
        write<V>(out, row * width + i, value);
    }
}

// out (b, a, width) of x (a, b, width).
template <typename T, int V>
INLINE void swapped(const T *x, T *out, long a, long row, long rows, long width, Columns columns, int lane) {
    const long from = row % a * (rows / a) + row / a;
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V)
        *reinterpret_cast<Pack<T, V> *>(out + row * width + i) = read<V>(x, from * width + i);
}

// gate * x, with gate (width).
template <typename T, int V>
INLINE void gated(const T *x, const T *gate, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto a = read<V>(x, row * width + i), g = read<V>(gate, i);
        float product[V];
        for (int k = 0; k < V; k++) product[k] = wide(g.of[k]) * wide(a.of[k]);
        write<V>(out, row * width + i, product);
    }
}

// x + gate * y, with gate (width).
template <typename T, int V>
INLINE void gated_residual(const T *x, const T *y, const T *gate, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto a = read<V>(x, row * width + i), b = read<V>(y, row * width + i), g = read<V>(gate, i);
        float sum[V];
        for (int k = 0; k < V; k++) sum[k] = wide(a.of[k]) + wide(g.of[k]) * wide(b.of[k]);
        write<V>(out, row * width + i, sum);
    }
}

// Activations, one number at a time.
struct Silu {
    INLINE float of(float x) { return x * sigmoid(x); }
};
struct QuickGelu {
    INLINE float of(float x) { return x * sigmoid(1.702f * x); }
};
struct ExactGelu {
    INLINE float of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
};
struct TanhGelu {
    INLINE float of(float x) { return x * gelu_gate(x); }
};

template <typename F, typename T, int V> INLINE void activated(const T *x, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) value[k] = F::of(wide(of.of[k]));
        write<V>(out, row * width + i, value);
    }
}

// The activation of gate, rounded, times up.
template <typename F, typename T, int V>
INLINE void activated_times(const T *gate, const T *up, T *out, long row, long width, Columns columns, int lane) {
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(gate, row * width + i), by = read<V>(up, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) {
            T rounded;
            keep(rounded, F::of(wide(of.of[k])));
            value[k] = wide(rounded) * wide(by.of[k]);
        }
        write<V>(out, row * width + i, value);
    }
}
