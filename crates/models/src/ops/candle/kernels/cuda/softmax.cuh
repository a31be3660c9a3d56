// Softmax of rows of float32 scores.
#pragma once
#include "packs.cuh"

// Largest value of a row of scores, and 1 / the sum of the exponentials of what is below it.
template <int V> INLINE void normaliser(const float *scores, long row, long width, int lane, float &top, float &inverse) {
    top = -INFINITY;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(scores, row * width + i);
        for (int k = 0; k < V; k++) top = fmaxf(top, of.of[k]);
    }
    top = largest(top);
    float sum = 0.0f;
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(scores, row * width + i);
        for (int k = 0; k < V; k++) sum += power(of.of[k] - top);
    }
    inverse = 1.0f / total(sum);
}

template <typename T, int V> INLINE void softmax(const float *scores, T *out, long row, long width, int lane) {
    float top, inverse;
    normaliser<V>(scores, row, width, lane, top, inverse);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(scores, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) value[k] = power(of.of[k] - top) * inverse;
        write<V>(out, row * width + i, value);
    }
}

// out: (2, rows, width), softmax of the scores and the gradient of the scores; grad is that of the softmax.
template <typename T, int V>
INLINE void softmax_vjp(const float *scores, const float *grad, T *out, long row, long rows, long width, int lane) {
    float top, inverse, along = 0.0f;
    normaliser<V>(scores, row, width, lane, top, inverse);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(scores, row * width + i), by = read<V>(grad, row * width + i);
        for (int k = 0; k < V; k++) along += power(of.of[k] - top) * inverse * by.of[k];
    }
    along = total(along);
    for (long i = lane * V; i < width; i += LANES * V) {
        const auto of = read<V>(scores, row * width + i), by = read<V>(grad, row * width + i);
        float value[V], gradient[V];
        for (int k = 0; k < V; k++) {
            value[k] = power(of.of[k] - top) * inverse;
            gradient[k] = value[k] * (by.of[k] - along);
        }
        write<V>(out, row * width + i, value);
        write<V>(out, (rows + row) * width + i, gradient);
    }
}

// Of the columns from `i` on, what the softmax of a query is taken of: scale * score + bias where it sees the key, else minus infinity.
template <int V> INLINE void seen(const float *scores, const float *bias, float scale, long i, long visible, float (&value)[V]) {
    const auto of = read<V>(scores, i);
    for (int k = 0; k < V; k++) value[k] = scale * of.of[k];
    if (bias) {
        const auto plus = read<V>(bias, i);
        for (int k = 0; k < V; k++) value[k] += plus.of[k];
    }
    for (int k = 0; k < V; k++) value[k] = i + k < visible ? value[k] : -INFINITY;
}

// Softmax of scale * scores + bias. The rows of bias (bias_rows, width) are taken again and again; without a bias there are none. Where there is a
// number of `queries`, the last of each so many rows sees all keys, and each row one more than that before it.
// Bound by memory: reads each score once, and twice more from the cache.
template <typename T, int V>
INLINE void masked_softmax(const float *scores, const float *bias, T *out, float scale, long queries, long bias_rows, long row, long width,
                           int lane) {
    const long visible = queries > 0 ? width - queries + row % queries + 1 : width;
    const float *own = scores + row * width, *plus = bias_rows > 0 ? bias + row % bias_rows * width : nullptr;
    float value[V], top = -INFINITY, sum = 0.0f;
    for (long i = lane * V; i < visible; i += LANES * V) {
        seen<V>(own, plus, scale, i, visible, value);
        for (int k = 0; k < V; k++) top = fmaxf(top, value[k]);
    }
    top = largest(top);
    for (long i = lane * V; i < visible; i += LANES * V) {
        seen<V>(own, plus, scale, i, visible, value);
        for (int k = 0; k < V; k++) sum += power(value[k] - top);
    }
    const float inverse = 1.0f / total(sum);
    for (long i = lane * V; i < width; i += LANES * V) {
        for (int k = 0; k < V; k++) value[k] = -INFINITY;
        if (i < visible) seen<V>(own, plus, scale, i, visible, value);
        for (int k = 0; k < V; k++) value[k] = power(value[k] - top) * inverse;
        write<V>(out, row * width + i, value);
    }
}
