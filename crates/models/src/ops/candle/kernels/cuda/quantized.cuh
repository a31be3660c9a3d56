// Numbers of 8 and 4 bits, widened.
#pragma once
#include "packs.cuh"

// The value of an E4M3 number: sign, 4 bits of exponent with bias 7, 3 bits of fraction; no infinities.
INLINE float e4m3(unsigned char byte) {
    const unsigned magnitude = byte & 0x7f;
    const float value = magnitude == 0x7f ? NAN : magnitude < 8 ? magnitude / 512.0f : of_bits((magnitude << 20) + (120u << 23));
    return byte & 0x80 ? -value : value;
}

// The numbers of E4M3 bytes, each times the scale of its row.
template <typename T, int V>
INLINE void dequantized(const unsigned char *x, const float *scales, T *out, long row, long width, Columns columns, int lane) {
    const float scale = scales[row];
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        float value[V];
        for (int k = 0; k < V; k++) value[k] = e4m3(of.of[k]) * scale;
        write<V>(out, row * width + i, value);
    }
}

// The value of an NF4 number, by comparisons that become selections.
INLINE float nf4(unsigned number) {
    return number & 8 ? number & 4 ? number & 2 ? number & 1 ? 1.0f : 0.72295684f : number & 1 ? 0.562617f : 0.44070983f
                                   : number & 2 ? number & 1 ? 0.33791524f : 0.2461123f : number & 1 ? 0.1609302f : 0.0795803f
                      : number & 4 ? number & 2 ? number & 1 ? 0.0f : -0.091050036f : number & 1 ? -0.18477343f : -0.28444138f
                                   : number & 2 ? number & 1 ? -0.3949175f : -0.52507305f : number & 1 ? -0.6961928f : -1.0f;
}

// The values (rows, 2 * width) of NF4 numbers, two in a byte of x (rows, width), the first in its upper half; each times the scale of its
// block of 64 numbers, which are 32 bytes.
template <typename T, int V>
INLINE void dequantized_nf4(const unsigned char *x, const float *scales, T *out, long row, long width, Columns columns, int lane) {
    const long blocks = (width + 31) / 32;
    for (long i = columns.first + lane * V; i < columns.last; i += LANES * V) {
        const auto of = read<V>(x, row * width + i);
        const float scale = scales[row * blocks + i / 32];
        float value[2][V];
        for (int k = 0; k < 2 * V; k++) value[k / V][k % V] = nf4(k % 2 ? of.of[k / 2] & 15 : of.of[k / 2] >> 4) * scale;
        for (int half = 0; half < 2; half++) write<V>(out, 2 * (row * width + i) + half * V, value[half]);
    }
}
