/* Vectors of float32 for the kernels beside this file, in GCC/Clang vector extensions: one source serves AVX-512,
 * AVX2 and NEON. bfloat16 is kept as uint16_t.
 */
#ifndef BATON_CPU_VECTORS_H
#define BATON_CPU_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
/* Rows of a register tile of 4 columns: sums, one operand a row and one of the other side fill the registers. */
#if defined(__AVX2__) && !defined(__AVX512F__)
#define TILE_ROWS 3
#else
#define TILE_ROWS 4
#endif
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline)) /* has the registers to itself */

typedef float vecf __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t veci __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t vech __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

INLINE vecf splat(float x) { return x - (vecf){0}; }

INLINE vecf choose(veci mask, vecf yes, vecf no) { return (vecf)((mask & (veci)yes) | (~mask & (veci)no)); }

INLINE vecf load(const void *base, int64_t i, int is_bf16) {
    if (!is_bf16) return *(const vecf *)((const float *)base + i);
    vech half = *(const vech *)((const uint16_t *)base + i);
    return (vecf)(__builtin_convertvector(half, veci) << 16);
}

/* Chunk `c` of LANES elements from `i` on. IN_PAIRS takes bfloat16 apart by words rather than by shuffles: of each two
 * chunks, the first holds the even elements and the second the odd ones. */
enum { FLOATS, BFLOATS, IN_PAIRS };

INLINE vecf load_chunk(const void *base, int64_t i, int64_t c, int kind) {
    if (kind != IN_PAIRS) return load(base, i + c * LANES, kind == BFLOATS);
    veci words = *(const veci *)((const uint16_t *)base + i + c / 2 * 2 * LANES);
    return c % 2 ? (vecf)(words & ~0xffff) : (vecf)(words << 16);
}

/* Where element `d` lies among chunks that were loaded so. */
INLINE int64_t place(int64_t d, int kind) {
    if (kind != IN_PAIRS) return d;
    return d / (2 * LANES) * (2 * LANES) + d % 2 * LANES + d % (2 * LANES) / 2;
}

INLINE float load_one(const void *base, int64_t i, int is_bf16) {
    if (!is_bf16) return ((const float *)base)[i];
    union { uint32_t u; float f; } bits = {(uint32_t)((const uint16_t *)base)[i] << 16};
    return bits.f;
}

/* To the nearest bfloat16, ties to even; a NaN stays one. */
INLINE void store(void *base, int64_t i, vecf x, int is_bf16) {
    if (!is_bf16) {
        *(vecf *)((float *)base + i) = x;
        return;
    }
#if LANES == 16 && defined(__AVX512BF16__)
    *(vech *)((uint16_t *)base + i) = (vech)_mm512_cvtneps_pbh((__m512)x);
#else
    veci bits = (veci)x;
    veci rounded = bits + 0x7fff + ((bits >> 16) & 1);
    veci nan = x != x;
    rounded = (nan & 0x7fc00000) | (~nan & rounded);
    *(vech *)((uint16_t *)base + i) = __builtin_convertvector((rounded >> 16) & 0xffff, vech);
#endif
}

INLINE void store_one(void *base, int64_t i, float x, int is_bf16) {
    if (!is_bf16) {
        ((float *)base)[i] = x;
        return;
    }
    union { float f; uint32_t u; } bits = {x};
    uint32_t rounded = (bits.u + 0x7fff + ((bits.u >> 16) & 1)) >> 16;
    ((uint16_t *)base)[i] = x != x ? 0x7fc0 : (uint16_t)rounded;
}

INLINE vecf larger(vecf a, vecf b) {
#if LANES == 16
    return (vecf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vecf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

#if LANES == 16
#define SWAP_HALVES(v) __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define SWAP_FOURS(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define SWAP_TWOS(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define SWAP_ONES(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#else
#define SWAP_HALVES(v) (v)
#define SWAP_FOURS(v) __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define SWAP_TWOS(v) __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#define SWAP_ONES(v) __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#endif

INLINE float sum_of(vecf v) {
    if (LANES == 16) v += SWAP_HALVES(v);
    v += SWAP_FOURS(v);
    v += SWAP_TWOS(v);
    v += SWAP_ONES(v);
    return v[0];
}

INLINE float max_of(vecf v) {
    v = larger(v, SWAP_HALVES(v));
    v = larger(v, SWAP_FOURS(v));
    v = larger(v, SWAP_TWOS(v));
    v = larger(v, SWAP_ONES(v));
    return v[0];
}

/* out[i] = the sum of v[i], for four vectors in fewer steps than four single sums take. */
INLINE void sum_four(const vecf *v, float *out) {
    typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
#if LANES == 16
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_TWO(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_TWO(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
    typedef float v8 __attribute__((vector_size(32)));
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_TWO(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_TWO(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#endif
    vecf p = LOW(v[0], v[1]) + HIGH(v[0], v[1]), q = LOW(v[2], v[3]) + HIGH(v[2], v[3]); /* 0 1 0 1 | 2 3 2 3 */
    vecf r = LOW_TWO(p, q) + HIGH_TWO(p, q);                                             /* 0 1 2 3 | 0 1 2 3 */
#if LANES == 16
    union { vecf v; v8 h[2]; } a = {r};
    union { v8 v; v4 h[2]; } b = {a.h[0] + a.h[1]};
#else
    union { vecf v; v4 h[2]; } b = {r};
#endif
    *(v4 *)out = b.h[0] + b.h[1];
#undef LOW
#undef HIGH
#undef LOW_TWO
#undef HIGH_TWO
}

/* e^x for x <= 0, relative error under 2e-7; 0 below -87. Degree 6 after reduction by ln 2, in two parts. */
INLINE vecf exp_of(vecf x) {
    vecf safe = larger(x, splat(-87.0f));
    vecf shifted = safe * splat(1.44269504f) + splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer, n, ... */
    vecf n = shifted - splat(12582912.0f);
    vecf r = (safe - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
    vecf p = splat(1.3888889e-3f);
    p = p * r + splat(8.3333333e-3f);
    p = p * r + splat(4.1666667e-2f);
    p = p * r + splat(1.6666667e-1f);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    veci scaled = (veci)p + ((veci)shifted << 23); /* ... which lies in its low bits: p * 2^n */
    return (vecf)((x >= splat(-87.0f)) & scaled);
}

#if LANES == 16
/* 2^x, relative error under 1e-5, which the rounding to bfloat16 hides. */
INLINE __m512 rough_exp2(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, 8), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(9.6181291e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504109e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022651e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}
#endif

/* x / (1 + e^-x), to the precision that the dtype can hold */
INLINE vecf silu_of(vecf x, int is_bf16) {
#if LANES == 16
    if (is_bf16) {
        __m512 e = rough_exp2(_mm512_mul_ps((__m512)x, _mm512_set1_ps(-1.44269504f)));
        return x * (vecf)_mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f)));
    }
#else
    (void)is_bf16;
#endif
    veci negative = x < splat(0);
    vecf e = exp_of(choose(negative, x, -x)); /* e^-|x| */
    return x * choose(negative, e, splat(1)) / (splat(1) + e);
}

#endif
