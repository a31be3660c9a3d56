// Norms of rows.
#pragma once
#include "packs.cuh"

// Mean, and 1 / sqrt(variance + epsilon), of a row.
template <typename T, int V>
INLINE void moments(const T *x, long row, long width, float epsilon, int lane, float &mean, float &inverse) {
    float sum = 0.0f, squares = 0.0f;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        for (int k = 0; k < V; k++) sum += wide(of.of[k]);
    }
    mean = total(sum) / width;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        for (int k = 0; k < V; k++) {
            const float from_mean = wide(of.of[k]) - mean;
            squares += from_mean * from_mean;
        }
    }
    inverse = 1.0f / sqrtf(total(squares) / width + epsilon);
}

// LayerNorm without weights, then (1 + scale) * x + shift, with scale and shift (width).
template <typename T, int V>
INLINE void modulated_norm(const T *x, const T *scale, const T *shift, T *out, float epsilon, long row, long width, int lane) {
    float mean, inverse;
    moments<T, V>(x, row, width, epsilon, lane, mean, inverse);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(scale, i), plus = read<V>(shift, i);
        float value[V];
        for (int k = 0; k < V; k++)
            value[k] = (wide(of.of[k]) - mean) * inverse * (1.0f + wide(by.of[k])) + wide(plus.of[k]);
        write<V>(out, row * width + i, value);
    }
}

// The gradient of x of modulated_norm.
template <typename T, int V>
INLINE void modulated_norm_vjp(const T *x, const T *scale, const T *grad, T *out, float epsilon, long row, long width,
                               int lane) {
    float mean, inverse, sum = 0.0f, along = 0.0f;
    moments<T, V>(x, row, width, epsilon, lane, mean, inverse);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(scale, i), g = read<V>(grad, row * width + i);
        for (int k = 0; k < V; k++) {
            const float scaled = wide(g.of[k]) * (1.0f + wide(by.of[k]));
            sum += scaled;
            along += scaled * (wide(of.of[k]) - mean) * inverse;
        }
    }
    sum = total(sum) / width;
    along = total(along) / width;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(scale, i), g = read<V>(grad, row * width + i);
        float gradient[V];
        for (int k = 0; k < V; k++) {
            const float scaled = wide(g.of[k]) * (1.0f + wide(by.of[k]));
            gradient[k] = inverse * (scaled - sum - (wide(of.of[k]) - mean) * inverse * along);
        }
        write<V>(out, row * width + i, gradient);
    }
}

// 1 / sqrt(mean of squares + epsilon) of a row.
template <typename T, int V>
INLINE float inverse_root_mean_square(const T *x, long row, long width, float epsilon, int lane) {
    float squares = 0.0f;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        for (int k = 0; k < V; k++) squares += wide(of.of[k]) * wide(of.of[k]);
    }
    return 1.0f / sqrtf(total(squares) / width + epsilon);
}

// x / sqrt(mean of squares + epsilon), rounded, times the weight (width). Bound by memory: reads each value once, and once more from the cache.
template <typename T, int V>
INLINE void rms_norm(const T *x, const T *weight, T *out, float epsilon, long row, long width, int lane) {
    const float inverse = inverse_root_mean_square<T, V>(x, row, width, epsilon, lane);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(weight, i);
        float value[V];
        for (int k = 0; k < V; k++) {
            T rounded;
            keep(rounded, wide(of.of[k]) * inverse);
            value[k] = wide(rounded) * wide(by.of[k]);
        }
        write<V>(out, row * width + i, value);
    }
}

// LayerNorm with weight and bias (width). Bound by memory: reads each value once, and twice more from the cache.
template <typename T, int V>
INLINE void layer_norm(const T *x, const T *weight, const T *bias, T *out, float epsilon, long row, long width, int lane) {
    float mean, inverse;
    moments<T, V>(x, row, width, epsilon, lane, mean, inverse);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i), by = read<V>(weight, i), plus = read<V>(bias, i);
        float value[V];
        for (int k = 0; k < V; k++) value[k] = (wide(of.of[k]) - mean) * inverse * wide(by.of[k]) + wide(plus.of[k]);
        write<V>(out, row * width + i, value);
    }
}
