/* Vectors of float32 for the kernels beside this file, in GCC/Clang vector extensions: one source serves AVX-512,
 * AVX2 and NEON. bfloat16 is kept as uint16_t.
 */
#ifndef BATON_CPU_VECTORS_H
#define BATON_CPU_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define INLINE static inline __attribute__((always_inline))

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

INLINE float sum_of(vecf v) {
#if LANES == 16
    typedef float v8 __attribute__((vector_size(32)));
    typedef float v4 __attribute__((vector_size(16)));
    union { vecf v; v8 h[2]; } a = {v};
    union { v8 v; v4 h[2]; } b = {a.h[0] + a.h[1]};
    v4 c = b.h[0] + b.h[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
#else
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
#endif
}

INLINE float max_of(vecf v) {
    float best = v[0];
#if LANES == 16
    typedef float v8 __attribute__((vector_size(32)));
    typedef int32_t i8 __attribute__((vector_size(32)));
    union { vecf v; v8 h[2]; } a = {v};
    i8 mask = a.h[0] > a.h[1];
    v8 b = (v8)((mask & (i8)a.h[0]) | (~mask & (i8)a.h[1]));
    best = b[0];
    for (int i = 1; i < 8; i++) best = b[i] > best ? b[i] : best;
#else
    for (int i = 1; i < LANES; i++) best = v[i] > best ? v[i] : best;
#endif
    return best;
}

/* e^x for x <= 0, relative error under 2e-7; 0 below -87. Degree 6 after reduction by ln 2, in two parts. */
INLINE vecf exp_of(vecf x) {
    veci dead = x < splat(-87.0f);
    vecf safe = choose(dead, splat(0), x);
    vecf shifted = safe * splat(1.44269504f) + splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    vecf n = shifted - splat(12582912.0f);
    vecf r = (safe - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
    vecf p = splat(1.3888889e-3f);
    p = p * r + splat(8.3333333e-3f);
    p = p * r + splat(4.1666667e-2f);
    p = p * r + splat(1.6666667e-1f);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    veci bits = (__builtin_convertvector(n, veci) + 127) << 23;
    return (vecf)(~dead & (veci)(p * (vecf)bits));
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
