// Positions turned into queries and keys.
#pragma once
#include "norms.cuh"

// What turns the rows of one token: the weights of its stream's norm, (2, width) for queries and keys, and width / 2 cosines and sines.
struct Turn {
    const float *weights, *cosines, *sines;
};

INLINE Turn turn_of(long row, long rows, long tokens, long text, long width, const float *text_weights,
                    const float *image_weights, const float *angles) {
    const long token = row % tokens;
    const float *weights = token < text ? text_weights : image_weights, *own = angles + token * width;
    return {row < rows / 2 ? weights : weights + width, own, own + width / 2};
}

// Queries and keys (2, heads, tokens, width): divided by the root of the mean of their squares, weighted, and turned by pairs.
template <typename T, int V>
INLINE void turned(const T *x, const Turn turn, T *out, float epsilon, long row, long width, int lane) {
    const float inverse = inverse_root_mean_square<T, V>(x, row, width, epsilon, lane);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float value[V];
        for (int k = 0; k < V; k += 2) {
            const float cosine = turn.cosines[(i + k) / 2], sine = turn.sines[(i + k) / 2];
            const float a = wide(of.of[k]) * inverse * turn.weights[i + k];
            const float b = wide(of.of[k + 1]) * inverse * turn.weights[i + k + 1];
            value[k] = a * cosine - b * sine;
            value[k + 1] = a * sine + b * cosine;
        }
        write<V>(out, row * width + i, value);
    }
}

// Gradient of the values from `i` on before their root mean square was taken out.
template <typename T, int V>
INLINE void turned_back(const T *grad, const Turn turn, long row, long width, long i, float (&gradient)[V]) {
    const auto by = read<V>(grad, row * width + i);
    for (int k = 0; k < V; k += 2) {
        const float cosine = turn.cosines[(i + k) / 2], sine = turn.sines[(i + k) / 2];
        const float a = wide(by.of[k]), b = wide(by.of[k + 1]);
        gradient[k] = (a * cosine + b * sine) * turn.weights[i + k];
        gradient[k + 1] = (b * cosine - a * sine) * turn.weights[i + k + 1];
    }
}

// The gradient of x of `turned`.
template <typename T, int V>
INLINE void turned_vjp(const T *x, const T *grad, const Turn turn, T *out, float epsilon, long row, long width, int lane) {
    const float inverse = inverse_root_mean_square<T, V>(x, row, width, epsilon, lane);
    float gradient[V], along = 0.0f;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        turned_back<T, V>(grad, turn, row, width, i, gradient);
        for (int k = 0; k < V; k++) along += gradient[k] * wide(of.of[k]) * inverse;
    }
    along = total(along) / width;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        turned_back<T, V>(grad, turn, row, width, i, gradient);
        for (int k = 0; k < V; k++) gradient[k] = inverse * (gradient[k] - wide(of.of[k]) * inverse * along);
        write<V>(out, row * width + i, gradient);
    }
}

// Each head of x (tokens, heads, width) turned: the value at i and that at i + width / 2 are a pair, whose angle of its token has its cosine and
// sine in (tokens, width / 2). Bound by memory: reads and writes each value once.
template <typename T, int V>
INLINE void rotated(const T *x, const float *cosines, const float *sines, T *out, long heads, long row, long width, int lane) {
    const long half = width / 2, angles = row / heads * half;
    for (long i = lane * V; i < half; i += LANES * V) {
        const auto a = read<V>(x, row * width + i), b = read<V>(x, row * width + half + i);
        const auto cosine = read<V>(cosines, angles + i), sine = read<V>(sines, angles + i);
        float first[V], second[V];
        for (int k = 0; k < V; k++) {
            first[k] = wide(a.of[k]) * cosine.of[k] - wide(b.of[k]) * sine.of[k];
            second[k] = wide(b.of[k]) * cosine.of[k] + wide(a.of[k]) * sine.of[k];
        }
        write<V>(out, row * width + i, first);
        write<V>(out, row * width + half + i, second);
    }
}
