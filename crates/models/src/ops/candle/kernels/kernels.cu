// What candle's kernels leave out, each in one pass over memory. All sums are float32, whatever the values are kept in.
//
// A row belongs to one warp, whose lanes take `V` neighbouring values at a time; sums over a row have one order, so the same
// inputs give the same bits. Where there is no sum, each warp has CHUNK values of a row. The tests compile this file for the CPU too,
// where a warp has a single lane and a whole row.

// The columns of a row that a warp has.
struct Columns {
    long first, last;
};

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define INLINE static __device__ __forceinline__
using bf16 = __nv_bfloat16;
using f16 = __half;
constexpr int LANES = 32;
INLINE float total(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
INLINE float largest(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
INLINE float power(float x) { return __expf(x); }
INLINE float wide(bf16 x) { return __bfloat162float(x); }
INLINE float wide(f16 x) { return __half2float(x); }
INLINE void keep(bf16 &to, float x) { to = __float2bfloat16_rn(x); }
INLINE void keep(f16 &to, float x) { to = __float2half_rn(x); }
INLINE float of_bits(unsigned bits) { return __uint_as_float(bits); }
constexpr long CHUNK = 512;
// Launched with (LANES, warps) threads a block, and as many blocks beside each other as a row has chunks.
#define KERNEL(name, body, parameters, arguments)                                                       \
    extern "C" __global__ void name parameters {                                                        \
        const long row = blockIdx.x * (long)blockDim.y + threadIdx.y;                                   \
        const int lane = threadIdx.x;                                                                   \
        const long first = blockIdx.y * CHUNK;                                                          \
        const Columns columns = {first, first + CHUNK < width ? first + CHUNK : width};                 \
        (void)columns;                                                                                  \
        if (row < rows) body arguments;                                                                 \
    }
#else
#include <cmath>
#include <cstring>
#define INLINE static inline
struct bf16 {
    unsigned short bits;
};
constexpr int LANES = 1;
INLINE float total(float x) { return x; }
INLINE float largest(float x) { return x; }
INLINE float power(float x) { return expf(x); }
INLINE float of_bits(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
INLINE float wide(bf16 x) { return of_bits((unsigned)x.bits << 16); }
INLINE void keep(bf16 &to, float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    to.bits = (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#define KERNEL(name, body, parameters, arguments)                                                       \
    extern "C" void name parameters {                                                                   \
        const int lane = 0;                                                                             \
        const Columns columns = {0, width};                                                             \
        (void)columns;                                                                                  \
        for (long row = 0; row < rows; row++) body arguments;                                           \
    }
#endif

INLINE float wide(float x) { return x; }
INLINE void keep(float &to, float x) { to = x; }

// `V` neighbouring values, read and written at once.
template <typename T, int V> struct alignas(sizeof(T) * V) Pack {
    T of[V];
};

template <int V, typename T> INLINE Pack<T, V> read(const T *from, long at) {
    return *reinterpret_cast<const Pack<T, V> *>(from + at);
}

template <int V, typename T> INLINE void write(T *to, long at, const float (&values)[V]) {
    Pack<T, V> pack;
    for (int i = 0; i < V; i++) keep(pack.of[i], values[i]);
    *reinterpret_cast<Pack<T, V> *>(to + at) = pack;
}

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

#define OF_KIND(T, V)                                                                                                  \
    KERNEL(gelu_##T##_##V, (gelu<T, V>), (const T *x, T *out, long rows, long width), (x, out, row, width, columns, lane))      \
    KERNEL(gelu_vjp_##T##_##V, (gelu_vjp<T, V>), (const T *x, const T *grad, T *out, long rows, long width),           \
           (x, grad, out, row, rows, width, columns, lane))                                                                     \
    KERNEL(biased_##T##_##V, (biased<T, V>), (const T *x, const T *bias, T *out, long rows, long width),               \
           (x, bias, out, row, width, columns, lane))                                                                           \
    KERNEL(added_##T##_##V, (added<T, V>), (const T *x, const float *delta, T *out, long rows, long width),            \
           (x, delta, out, row, width, columns, lane))                                                                          \
    KERNEL(biased_added_##T##_##V, (biased_added<T, V>),                                                               \
           (const T *x, const T *bias, const float *delta, T *out, long rows, long width),                             \
           (x, bias, delta, out, row, width, columns, lane))                                                                    \
    KERNEL(widened_##T##_##V, (widened<T, V>), (const T *x, float *out, long rows, long width),                        \
           (x, out, row, width, columns, lane))                                                                        \
    KERNEL(dequantized_##T##_##V, (dequantized<T, V>),                                                                 \
           (const unsigned char *x, const float *scales, T *out, long rows, long width),                               \
           (x, scales, out, row, width, columns, lane))                                                                \
    KERNEL(dequantized_nf4_##T##_##V, (dequantized_nf4<T, V>),                                                         \
           (const unsigned char *x, const float *scales, T *out, long rows, long width),                               \
           (x, scales, out, row, width, columns, lane))                                                                \
    KERNEL(swapped_##T##_##V, (swapped<T, V>), (const T *x, T *out, long rows, long width, long a),                    \
           (x, out, a, row, rows, width, columns, lane))                                                               \
    KERNEL(gated_##T##_##V, (gated<T, V>), (const T *x, const T *gate, T *out, long rows, long width),                 \
           (x, gate, out, row, width, columns, lane))                                                                  \
    KERNEL(gated_residual_##T##_##V, (gated_residual<T, V>),                                                           \
           (const T *x, const T *y, const T *gate, T *out, long rows, long width),                                     \
           (x, y, gate, out, row, width, columns, lane))                                                                        \
    KERNEL(modulated_norm_##T##_##V, (modulated_norm<T, V>),                                                           \
           (const T *x, const T *scale, const T *shift, T *out, long rows, long width, float epsilon),                 \
           (x, scale, shift, out, epsilon, row, width, lane))                                                          \
    KERNEL(modulated_norm_vjp_##T##_##V, (modulated_norm_vjp<T, V>),                                                   \
           (const T *x, const T *scale, const T *grad, T *out, long rows, long width, float epsilon),                  \
           (x, scale, grad, out, epsilon, row, width, lane))                                                           \
    KERNEL(softmax_##T##_##V, (softmax<T, V>), (const float *scores, T *out, long rows, long width),                   \
           (scores, out, row, width, lane))                                                                            \
    KERNEL(softmax_vjp_##T##_##V, (softmax_vjp<T, V>),                                                                 \
           (const float *scores, const float *grad, T *out, long rows, long width),                                    \
           (scores, grad, out, row, rows, width, lane))

#define TURN turn_of(row, rows, tokens, text, width, text_weights, image_weights, angles)
#define OF_PAIRS(T, V)                                                                                                 \
    KERNEL(turned_##T##_##V, (turned<T, V>),                                                                           \
           (const T *x, const float *text_weights, const float *image_weights, const float *angles, T *out, long rows, \
            long width, float epsilon, long tokens, long text),                                                        \
           (x, TURN, out, epsilon, row, width, lane))                                                                  \
    KERNEL(turned_vjp_##T##_##V, (turned_vjp<T, V>),                                                                   \
           (const T *x, const T *grad, const float *text_weights, const float *image_weights, const float *angles,     \
            T *out, long rows, long width, float epsilon, long tokens, long text),                                     \
           (x, grad, TURN, out, epsilon, row, width, lane))

#define OF_TYPE(T) OF_KIND(T, 1) OF_KIND(T, 4) OF_PAIRS(T, 2) OF_PAIRS(T, 4)

OF_TYPE(float)
OF_TYPE(bf16)
#ifdef __CUDACC__
OF_TYPE(f16)
#endif
