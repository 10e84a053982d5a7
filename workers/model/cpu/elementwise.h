/* The small steps between matrix products, each in one pass: RMS norm, rotary embedding, keys and values into blocks.
 *
 * float32 or bfloat16 in memory, float32 inside.
 */
#ifndef BATON_CPU_ELEMENTWISE_H
#define BATON_CPU_ELEMENTWISE_H

#include "vectors.h"

#define PARALLEL_FROM 32768 /* elements: below, waking threads costs more than it saves */

/* out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, over rows of `width` contiguous elements. */
static inline void rms_norm(const void *x, const float *weight, void *out, int64_t rows, int64_t width, float eps,
                    int32_t is_bf16, int32_t num_threads) {
    int64_t whole = width - width % LANES;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && rows * width >= PARALLEL_FROM)
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * width;
        vecf squares = splat(0);
        for (int64_t i = 0; i < whole; i += LANES) {
            vecf v = load(x, at + i, is_bf16);
            squares += v * v;
        }
        float sum = sum_of(squares);
        for (int64_t i = whole; i < width; i++) {
            float v = load_one(x, at + i, is_bf16);
            sum += v * v;
        }
        float factor = 1.0f / sqrtf(sum / (float)width + eps);
        for (int64_t i = 0; i < whole; i += LANES)
            store(out, at + i, load(x, at + i, is_bf16) * factor * load(weight, i, 0), is_bf16);
        for (int64_t i = whole; i < width; i++)
            store_one(out, at + i, load_one(x, at + i, is_bf16) * factor * weight[i], is_bf16);
    }
}

/* One head: halves (a, b) become (a cos - b sin, b cos' + a sin'), with cos, sin of the first half and cos', sin' of
 * the second. */
INLINE void rotate(const void *x, int64_t from, const void *cos, const void *sin, int64_t angle, void *out, int64_t to,
                   int64_t half, int is_bf16) {
    int64_t whole = half - half % LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        vecf a = load(x, from + i, is_bf16), b = load(x, from + half + i, is_bf16);
        store(out, to + i, a * load(cos, angle + i, is_bf16) - b * load(sin, angle + i, is_bf16), is_bf16);
        store(out, to + half + i,
              b * load(cos, angle + half + i, is_bf16) + a * load(sin, angle + half + i, is_bf16), is_bf16);
    }
    for (int64_t i = whole; i < half; i++) {
        float a = load_one(x, from + i, is_bf16), b = load_one(x, from + half + i, is_bf16);
        store_one(out, to + i, a * load_one(cos, angle + i, is_bf16) - b * load_one(sin, angle + i, is_bf16), is_bf16);
        store_one(out, to + half + i,
                  b * load_one(cos, angle + half + i, is_bf16) + a * load_one(sin, angle + half + i, is_bf16),
                  is_bf16);
    }
}

/* x: [tokens, heads, dim] by strides, the last one 1; cos, sin: [tokens, dim]; out: [tokens, heads, dim] contiguous. */
static inline void rotary(const void *x, int64_t token_stride, int64_t head_stride, const void *cos, const void *sin, void *out,
                  int64_t tokens, int64_t heads, int64_t dim, int32_t is_bf16, int32_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && tokens * heads * dim >= PARALLEL_FROM)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            rotate(x, t * token_stride + h * head_stride, cos, sin, t * dim, out, (t * heads + h) * dim, dim / 2,
                   is_bf16);
}

/* Rows of key and value, [tokens, heads, dim] by strides, to the rows `slots` of the caches; sizes in bytes. */
static inline void write_kv(const char *key, int64_t k_token_stride, int64_t k_head_stride, const char *value,
                    int64_t v_token_stride, int64_t v_head_stride, char *k_cache, char *v_cache, const int64_t *slots,
                    int64_t tokens, int64_t heads, int64_t head_nbytes, int32_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && tokens * heads * head_nbytes >= PARALLEL_FROM)
    for (int64_t t = 0; t < tokens; t++) {
        int64_t row = slots[t] * heads * head_nbytes;
        for (int64_t h = 0; h < heads; h++) {
            memcpy(k_cache + row + h * head_nbytes, key + t * k_token_stride + h * k_head_stride, head_nbytes);
            memcpy(v_cache + row + h * head_nbytes, value + t * v_token_stride + h * v_head_stride, head_nbytes);
        }
    }
}

/* out[r] = silu(x[r][:width]) * x[r][width:], x: [rows, 2 * width] contiguous. */
static inline void silu_mul(const void *x, void *out, int64_t rows, int64_t width, int32_t is_bf16, int32_t num_threads) {
    int64_t whole = width - width % LANES;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && rows * width >= PARALLEL_FROM)
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = 2 * r * width, to = r * width;
        for (int64_t i = 0; i < whole; i += LANES)
            store(out, to + i, silu_of(load(x, at + i, is_bf16), is_bf16) * load(x, at + width + i, is_bf16), is_bf16);
        for (int64_t i = whole; i < width; i++) {
            float gate = load_one(x, at + i, is_bf16);
            store_one(out, to + i, gate / (1.0f + expf(-gate)) * load_one(x, at + width + i, is_bf16), is_bf16);
        }
    }
}

#endif
