// Norms of pictures, and the patches that a convolution multiplies. Pictures are (images, channels, height, width); a row has pixels.
#pragma once
#include "pointwise.cuh"

// Values of a group that one warp sums.
constexpr long PART = 4096;

// Pixels of a row that one warp has: rows are long, and what a warp finds out about its row is dear.
constexpr long SPAN = 2048;

// Channels of a pixel that one lane has.
constexpr long CHANNELS = 32;

// out (groups, parts, 2): the mean of each part of a group, and the sum of the squares of what is off it; x (groups, width).
// Bound by memory: reads each value once, and once more from the cache.
template <typename T, int V> INLINE void part_moments(const T *x, float *out, long row, long width, int lane) {
    const long parts = (width + PART - 1) / PART, first = row % parts * PART;
    const long last = first + PART < width ? first + PART : width, group = row / parts * width;
    float sum = 0.0f, squares = 0.0f;
    for (long i = first + lane * V; i < last; i += LANES * V) {
        const auto of = read<V>(x, group + i);
        for (int k = 0; k < V; k++) sum += wide(of.of[k]);
    }
    const float mean = total(sum) / (last - first);
    for (long i = first + lane * V; i < last; i += LANES * V) {
        const auto of = read<V>(x, group + i);
        for (int k = 0; k < V; k++) {
            const float off = wide(of.of[k]) - mean;
            squares += off * off;
        }
    }
    squares = total(squares);
    if (lane == 0) {
        out[2 * row] = mean;
        out[2 * row + 1] = squares;
    }
}

// out (groups, 2): mean, and 1 / sqrt(variance + epsilon), of groups of `size` values, of what part_moments tells of their `width` parts.
// A few hundred numbers a row: bound by the launch.
INLINE void joined_moments(const float *parts, float *out, float epsilon, long size, long row, long width, int lane) {
    const float *own = parts + 2 * row * width;
    const long rest = size - (width - 1) * PART;
    float sum = 0.0f, squares = 0.0f;
    for (long i = lane; i < width; i += LANES) sum += own[2 * i] * (i + 1 < width ? PART : rest);
    const float mean = total(sum) / size;
    for (long i = lane; i < width; i += LANES) {
        const float off = own[2 * i] - mean;
        squares += own[2 * i + 1] + off * off * (i + 1 < width ? PART : rest);
    }
    squares = total(squares);
    if (lane == 0) {
        out[2 * row] = mean;
        out[2 * row + 1] = 1.0f / sqrtf(squares / size + epsilon);
    }
}

// Each group of channels by its moments (images, groups, 2), then weight * x + bias, with weight and bias (channels), and SiLU where `silu` is 1.
// Bound by memory: reads and writes each value once.
template <typename T, int V>
INLINE void group_norm(const T *x, const float *moments, const T *weight, const T *bias, T *out, long channels, long groups, long silu,
                       long row, long width, Columns columns, int lane) {
    const unsigned channel = (unsigned)row % (unsigned)channels, image = (unsigned)row / (unsigned)channels;
    const float *own = moments + 2 * (image * groups + channel / ((unsigned)channels / (unsigned)groups));
    const float mean = own[0], factor = own[1] * wide(weight[channel]), plus = wide(bias[channel]);
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) {
            value[k] = (wide(of.of[k]) - mean) * factor + plus;
            if (silu) value[k] *= sigmoid(value[k]);
        }
        write<V>(out, row * width + i, value);
    }
}

// out (images, parts, width): of each pixel the sum of the squares of a part of its channels; x (images, channels, width).
// Bound by memory: reads each value once, and writes 4 bytes for CHANNELS of them.
template <typename T, int V>
INLINE void pixel_squares(const T *x, float *out, long channels, long row, long width, Columns columns, int lane) {
    const long parts = (channels + CHANNELS - 1) / CHANNELS, first = row % parts * CHANNELS;
    const long last = first + CHANNELS < channels ? first + CHANNELS : channels;
    const T *image = x + row / parts * channels * width;
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        float squares[V] = {};
        for (long channel = first; channel < last; channel++) {
            const auto of = read<V>(image, channel * width + i);
            for (int k = 0; k < V; k++) squares[k] += wide(of.of[k]) * wide(of.of[k]);
        }
        write<V>(out, row * width + i, squares);
    }
}

// x / max(|x|, 1e-12) * sqrt(channels) * gamma, where |x| is the length of a pixel, of what pixel_squares tells; gamma (channels). SiLU where
// `silu` is 1. A row is a part of the channels.
// Bound by memory: reads and writes each value once, and reads a few sums for CHANNELS of them.
template <typename T, int V>
INLINE void channel_norm(const T *x, const float *squares, const T *gamma, T *out, long channels, long silu, long row, long width,
                         Columns columns, int lane) {
    const long parts = (channels + CHANNELS - 1) / CHANNELS, first = row % parts * CHANNELS;
    const long last = first + CHANNELS < channels ? first + CHANNELS : channels, image = row / parts;
    const float root = sqrtf((float)channels);
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        float factor[V] = {};
        for (long part = 0; part < parts; part++) {
            const auto of = read<V>(squares, (image * parts + part) * width + i);
            for (int k = 0; k < V; k++) factor[k] += of.of[k];
        }
        for (int k = 0; k < V; k++) factor[k] = root / fmaxf(sqrtf(factor[k]), 1e-12f);
        for (long channel = first; channel < last; channel++) {
            const long at = (image * channels + channel) * width + i;
            const auto of = read<V>(x, at);
            const float weight = wide(gamma[channel]);
            float value[V];
            for (int k = 0; k < V; k++) {
                value[k] = wide(of.of[k]) * factor[k] * weight;
                if (silu) value[k] *= sigmoid(value[k]);
            }
            write<V>(out, at, value);
        }
    }
}

// What meets an element of a convolution's kernel where. The output has lines of `columns` pixels, of which those from `first_line` on are meant.
// A pixel of the input stands for `scale` by `scale`.
struct Window {
    long height, width, kernel, stride, before, scale, first_line, columns;
};

template <typename T> INLINE T nought() {
    T zero;
    keep(zero, 0.0f);
    return zero;
}

// V neighbours of a line whose pixels stand SCALE times each: from `at` + `shift` on, where `at` is a multiple of V and `shift` is -1, 0 or 1. One
// pack and one value are read.
template <int V, int SCALE, typename T> INLINE Pack<T, V> slid(const T *line, int width, int at, int shift) {
    const auto own = read<V / SCALE>(line, at / SCALE);
    const int left = at / SCALE - 1, right = at / SCALE + V / SCALE;
    Pack<T, V> to;
    if (shift < 0) {
        to.of[0] = left < 0 ? nought<T>() : line[left];
        for (int k = 1; k < V; k++) to.of[k] = own.of[(k - 1) / SCALE];
    } else if (shift == 0) {
        for (int k = 0; k < V; k++) to.of[k] = own.of[k / SCALE];
    } else {
        for (int k = 0; k + 1 < V; k++) to.of[k] = own.of[(k + 1) / SCALE];
        to.of[V - 1] = right < width ? line[right] : nought<T>();
    }
    return to;
}

// A row of patches for each element of the kernel, (channels, kernel, kernel): of each output pixel the pixel of x (channels, height, width) that
// it meets, 0 beyond the edges. Bound by memory: writes each value, and reads most of them from the cache.
template <typename T, int V> INLINE void patches(const T *x, T *out, Window w, long row, long pixels, Columns columns, int lane) {
    const int kernel = w.kernel, taps = kernel * kernel, channel = (int)row / taps, tap = (int)row % taps;
    const int down = tap / kernel - (int)w.before, right = tap % kernel - (int)w.before;
    const int scale = w.scale, width = w.width, high = scale * (int)w.height, broad = scale * width, stride = w.stride;
    const T *plane = x + channel * w.height * w.width;
    const bool slides = stride == 1 && scale <= 2 && right >= -1 && right <= 1 && w.columns <= broad;
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const unsigned line = (unsigned)i / (unsigned)w.columns;
        const int column = (int)((unsigned)i - line * (unsigned)w.columns), y = (int)(w.first_line + line) * stride + down;
        Pack<T, V> to;
        if (y < 0 || y >= high) {
            for (int k = 0; k < V; k++) to.of[k] = nought<T>();
        } else {
            const T *source = plane + (long)(y / scale) * width;
            bool done = false;
            if constexpr (V > 1) {
                if (slides) to = scale == 1 ? slid<V, 1>(source, width, column, right) : slid<V, 2>(source, width, column, right);
                done = slides;
            }
            for (int k = 0; k < V && !done; k++) {
                const int at = (column + k) * stride + right;
                to.of[k] = at < 0 || at >= broad ? nought<T>() : source[at / scale];
            }
        }
        *reinterpret_cast<Pack<T, V> *>(out + row * pixels + i) = to;
    }
}

// Each number of x (rows) as a row of so many.
template <typename T, int V> INLINE void spread(const T *x, T *out, long row, long width, Columns columns, int lane) {
    Pack<T, V> to;
    for (int k = 0; k < V; k++) to.of[k] = x[row];
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) *reinterpret_cast<Pack<T, V> *>(out + row * width + i) = to;
}
