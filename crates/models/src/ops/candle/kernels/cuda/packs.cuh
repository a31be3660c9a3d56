// How the kernels of this folder read and write memory, on a GPU and in the tests on the CPU.
#pragma once

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
// Launched with (LANES, warps) threads a block, and as many blocks beside each other as a row has chunks of so many values.
#define KERNEL_OF(chunk, name, body, parameters, arguments)                                                       \
    extern "C" __global__ void name parameters {                                                        \
        const long row = blockIdx.x * (long)blockDim.y + threadIdx.y;                                   \
        const int lane = threadIdx.x;                                                                   \
        const long first = blockIdx.y * (long)(chunk);                                                         \
        const Columns columns = {first, first + (chunk) < width ? first + (chunk) : width};                 \
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
#define KERNEL_OF(chunk, name, body, parameters, arguments)                                                       \
    extern "C" void name parameters {                                                                   \
        const int lane = 0;                                                                             \
        const Columns columns = {0, width};                                                             \
        (void)columns;                                                                                  \
        for (long row = 0; row < rows; row++) body arguments;                                           \
    }
#endif

// Values of a row that one warp has, where warps share it.
constexpr long CHUNK = 512;
#define KERNEL(name, body, parameters, arguments) KERNEL_OF(CHUNK, name, body, parameters, arguments)

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
