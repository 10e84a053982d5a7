/* The steps of elementwise.h, one at a time, for workers.model.cpu.elementwise. */
#include "elementwise.h"

void baton_rms_norm(const void *x, const float *weight, void *out, int64_t rows, int64_t width, float eps,
                    int32_t is_bf16, int32_t num_threads) {
    rms_norm(x, weight, out, rows, width, eps, is_bf16, num_threads);
}

void baton_rotary(const void *x, int64_t token_stride, int64_t head_stride, const void *cos, const void *sin, void *out,
                  int64_t tokens, int64_t heads, int64_t dim, int32_t is_bf16, int32_t num_threads) {
    rotary(x, token_stride, head_stride, cos, sin, out, tokens, heads, dim, is_bf16, num_threads);
}

void baton_write_kv(const char *key, int64_t k_token_stride, int64_t k_head_stride, const char *value,
                    int64_t v_token_stride, int64_t v_head_stride, char *k_cache, char *v_cache, const int64_t *slots,
                    int64_t tokens, int64_t heads, int64_t head_nbytes, int32_t num_threads) {
    write_kv(key, k_token_stride, k_head_stride, value, v_token_stride, v_head_stride, k_cache, v_cache, slots, tokens,
             heads, head_nbytes, num_threads);
}

void baton_silu_mul(const void *x, void *out, int64_t rows, int64_t width, int32_t is_bf16, int32_t num_threads) {
    silu_mul(x, out, rows, width, is_bf16, num_threads);
}
