/* Elementwise steps of a decoder layer, each in one pass over its rows; see cpu_fusion.py. */
#include "cpu_vectors.h"

/* Rows below this many elements in all are not worth waking the other threads. */
enum { PARALLEL_ELEMENTS = 1 << 15 };

#define THREADS(elements, limit) ((elements) < PARALLEL_ELEMENTS ? 1 : (limit))

INLINE void norm_row(const void *x, const void *weight, void *y, int64_t at, int64_t to, int64_t n, float epsilon, int is_bf16) {
    int64_t whole = n / LANES * LANES;
    vecf sums = splat(0);
    for (int64_t i = 0; i < whole; i += LANES) {
        vecf v = load(x, at + i, is_bf16);
        sums += v * v;
    }
    float square = sum_of(sums);
    for (int64_t i = whole; i < n; i++) square += load_one(x, at + i, is_bf16) * load_one(x, at + i, is_bf16);
    float scale = 1.0f / sqrtf(square / n + epsilon);
    for (int64_t i = 0; i < whole; i += LANES)
        store(y, to + i, load(x, at + i, is_bf16) * splat(scale) * load(weight, i, is_bf16), is_bf16);
    for (int64_t i = whole; i < n; i++)
        store_one(y, to + i, load_one(x, at + i, is_bf16) * scale * load_one(weight, i, is_bf16), is_bf16);
}

/* y = weight * x / sqrt(mean(x^2) + epsilon); x: [rows][n], a row every `stride` elements; y contiguous. */
void baton_rms_norm(
    const void *x, const void *weight, void *y, int64_t rows, int64_t stride, int64_t n, float epsilon, int32_t is_bf16,
    int32_t num_threads
) {
    int threads = THREADS(rows * n, num_threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        if (is_bf16) norm_row(x, weight, y, row * stride, row * n, n, epsilon, 1);
        else norm_row(x, weight, y, row * stride, row * n, n, epsilon, 0);
    }
}

/* Pairs (x[i], x[i + half]) of one head turn by the token's angles; cos and sin are [2 * half], as torch has them. */
INLINE void rotate_head(void *x, int64_t at, const void *cos, const void *sin, int64_t angle, int64_t half, int is_bf16) {
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        vecf a = load(x, at + i, is_bf16), b = load(x, at + half + i, is_bf16);
        vecf ca = load(cos, angle + i, is_bf16), cb = load(cos, angle + half + i, is_bf16);
        vecf sa = load(sin, angle + i, is_bf16), sb = load(sin, angle + half + i, is_bf16);
        store(x, at + i, a * ca - b * sa, is_bf16);
        store(x, at + half + i, b * cb + a * sb, is_bf16);
    }
    for (; i < half; i++) {
        float a = load_one(x, at + i, is_bf16), b = load_one(x, at + half + i, is_bf16);
        float ca = load_one(cos, angle + i, is_bf16), cb = load_one(cos, angle + half + i, is_bf16);
        float sa = load_one(sin, angle + i, is_bf16), sb = load_one(sin, angle + half + i, is_bf16);
        store_one(x, at + i, a * ca - b * sa, is_bf16);
        store_one(x, at + half + i, b * cb + a * sb, is_bf16);
    }
}

/* Rotates q and k in place. q: [tokens] rows of `q_heads` heads, likewise k; cos, sin: [tokens][dim]. */
void baton_rotate(
    void *q, void *k, const void *cos, const void *sin, int64_t tokens, int64_t q_heads, int64_t k_heads, int64_t dim,
    int64_t q_token_stride, int64_t q_head_stride, int64_t k_token_stride, int64_t k_head_stride, int32_t is_bf16,
    int32_t num_threads
) {
    int threads = THREADS(tokens * (q_heads + k_heads) * dim, num_threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t h = 0; h < q_heads + k_heads; h++) {
            int64_t of_k = h - q_heads;
            void *x = of_k < 0 ? q : k;
            int64_t at = of_k < 0 ? t * q_token_stride + h * q_head_stride : t * k_token_stride + of_k * k_head_stride;
            if (is_bf16) rotate_head(x, at, cos, sin, t * dim, dim / 2, 1);
            else rotate_head(x, at, cos, sin, t * dim, dim / 2, 0);
        }
    }
}
