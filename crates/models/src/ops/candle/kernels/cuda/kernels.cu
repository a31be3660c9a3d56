// What candle's kernels leave out, each in one pass over memory. All sums are float32, whatever the values are kept in.
//
// A row belongs to one warp, whose lanes take `V` neighbouring values at a time; sums over a row have one order, so the same
// inputs give the same bits. Where there is no sum, each warp has CHUNK values of a row. The tests compile this file for the CPU too,
// where a warp has a single lane and a whole row.

#include "images.cuh"
#include "norms.cuh"
#include "pointwise.cuh"
#include "quantized.cuh"
#include "softmax.cuh"
#include "turns.cuh"

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

// What surrounds the transformer, also by eight narrow values, which are 16 bytes.
#define OF_IMAGES(T, V)                                                                                                \
    KERNEL(part_moments_##T##_##V, (part_moments<T, V>), (const T *x, float *out, long rows, long width),              \
           (x, out, row, width, lane))                                                                                 \
    KERNEL_OF(SPAN, group_norm_##T##_##V, (group_norm<T, V>),                                                          \
              (const T *x, const float *moments, const T *weight, const T *bias, T *out, long rows, long width,        \
               long channels, long groups, long silu),                                                                 \
              (x, moments, weight, bias, out, channels, groups, silu, row, width, columns, lane))                      \
    KERNEL_OF(LANES *V, pixel_squares_##T##_##V, (pixel_squares<T, V>),                                                \
              (const T *x, float *out, long rows, long width, long channels),                                          \
              (x, out, channels, row, width, columns, lane))                                                           \
    KERNEL_OF(LANES *V, channel_norm_##T##_##V, (channel_norm<T, V>),                                                  \
              (const T *x, const float *squares, const T *gamma, T *out, long rows, long width, long channels,         \
               long silu),                                                                                             \
              (x, squares, gamma, out, channels, silu, row, width, columns, lane))                                     \
    KERNEL_OF(SPAN, patches_##T##_##V, (patches<T, V>),                                                                \
              (const T *x, T *out, long rows, long width, long picture_height, long picture_width, long kernel,        \
               long stride, long before, long scale, long first_line, long line),                                      \
              (x, out, Window{picture_height, picture_width, kernel, stride, before, scale, first_line, line}, row,    \
               width, columns, lane))                                                                                  \
    KERNEL_OF(SPAN, spread_##T##_##V, (spread<T, V>), (const T *x, T *out, long rows, long width),                     \
              (x, out, row, width, columns, lane))

#define ACTIVATED(name, F, T, V)                                                                                       \
    KERNEL(name##_##T##_##V, (activated<F, T, V>), (const T *x, T *out, long rows, long width),                        \
           (x, out, row, width, columns, lane))
#define ACTIVATED_TIMES(name, F, T, V)                                                                                 \
    KERNEL(name##_times_##T##_##V, (activated_times<F, T, V>),                                                         \
           (const T *gate, const T *up, T *out, long rows, long width), (gate, up, out, row, width, columns, lane))

#define OF_LAYERS(T, V)                                                                                                \
    KERNEL(rms_norm_##T##_##V, (rms_norm<T, V>),                                                                       \
           (const T *x, const T *weight, T *out, long rows, long width, float epsilon),                                \
           (x, weight, out, epsilon, row, width, lane))                                                                \
    KERNEL(layer_norm_##T##_##V, (layer_norm<T, V>),                                                                   \
           (const T *x, const T *weight, const T *bias, T *out, long rows, long width, float epsilon),                 \
           (x, weight, bias, out, epsilon, row, width, lane))                                                          \
    KERNEL(masked_softmax_##T##_##V, (masked_softmax<T, V>),                                                           \
           (const float *scores, const float *bias, T *out, long rows, long width, float scale, long queries,          \
            long bias_rows),                                                                                           \
           (scores, bias, out, scale, queries, bias_rows, row, width, lane))                                           \
    KERNEL(rotated_##T##_##V, (rotated<T, V>),                                                                         \
           (const T *x, const float *cosines, const float *sines, T *out, long rows, long width, long heads),          \
           (x, cosines, sines, out, heads, row, width, lane))                                                          \
    ACTIVATED(silu, Silu, T, V)                                                                                        \
    ACTIVATED(quick_gelu, QuickGelu, T, V)                                                                             \
    ACTIVATED(exact_gelu, ExactGelu, T, V)                                                                             \
    ACTIVATED_TIMES(silu, Silu, T, V)                                                                                  \
    ACTIVATED_TIMES(gelu, TanhGelu, T, V)

#define OF_TYPE(T)                                                                                                     \
    OF_KIND(T, 1) OF_KIND(T, 4) OF_PAIRS(T, 2) OF_PAIRS(T, 4) OF_IMAGES(T, 1) OF_IMAGES(T, 4) OF_LAYERS(T, 1) OF_LAYERS(T, 4)
#define OF_NARROW_TYPE(T) OF_TYPE(T) OF_IMAGES(T, 8) OF_LAYERS(T, 8)

OF_TYPE(float)
OF_NARROW_TYPE(bf16)
#ifdef __CUDACC__
OF_NARROW_TYPE(f16)
#endif
KERNEL(joined_moments_float_1, joined_moments, (const float *parts, float *out, long rows, long width, float epsilon, long size),
       (parts, out, epsilon, size, row, width, lane))
