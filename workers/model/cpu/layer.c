/* What a decoder layer of the usual kind does before and after attention, see workers.model.cpu.fused: one call each. */
#include "elementwise.h"
#include "linear.h"

typedef struct { /* `LayerOfC` of fused.py is the same */
    const float *norm, *mlp_norm;
    const uint16_t *qkv, *output, *gate_up, *down;
    const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias; /* or NULL */
    int64_t width, inner, num_heads, num_kv_heads, head_dim;
    float eps, mlp_eps;
    int32_t is_bf16;
} baton_layer;

/* x: [tokens][width]; qkv: [tokens][heads + 2 kv heads][dim]; turned: the same without values, rotated.
 * Returns 0, or 1 when there is no memory for what is between. */
int baton_layer_begin(const baton_layer *l, const void *x, const void *cos, const void *sin, void *qkv, void *turned,
                      int64_t tokens, int32_t num_threads) {
    int64_t turning = l->num_heads + l->num_kv_heads, heads = turning + l->num_kv_heads, dim = l->head_dim;
    void *normed = malloc(tokens * l->width * (l->is_bf16 ? 2 : 4));
    if (!normed) return 1;
    rms_norm(x, l->norm, normed, tokens, l->width, l->eps, l->is_bf16, num_threads);
    int failed =
        linear(normed, l->qkv, l->qkv_bias, qkv, tokens, l->width, heads * dim, l->is_bf16, 0, num_threads);
    rotary(qkv, heads * dim, dim, cos, sin, turned, tokens, turning, dim, l->is_bf16, num_threads);
    free(normed);
    return failed;
}

/* out: what the MLP finds in x, both [tokens][width]; added to what is there if `adds`. */
int baton_layer_mlp(const baton_layer *l, const void *x, void *out, int64_t tokens, int32_t adds, int32_t num_threads) {
    int64_t size = l->is_bf16 ? 2 : 4;
    char *normed = malloc(tokens * (l->width + 3 * l->inner) * size);
    if (!normed) return 1;
    char *gate_up = normed + tokens * l->width * size, *gated = gate_up + tokens * 2 * l->inner * size;
    rms_norm(x, l->mlp_norm, normed, tokens, l->width, l->mlp_eps, l->is_bf16, num_threads);
    int failed = linear(
        normed, l->gate_up, l->gate_up_bias, gate_up, tokens, l->width, 2 * l->inner, l->is_bf16, 0, num_threads
    );
    silu_mul(gate_up, gated, tokens, l->inner, l->is_bf16, num_threads);
    failed |= linear(gated, l->down, l->down_bias, out, tokens, l->inner, l->width, l->is_bf16, adds, num_threads);
    free(normed);
    return failed;
}

/* found: [tokens][heads][dim], what attention found; x becomes the layer's output. */
int baton_layer_end(const baton_layer *l, const void *found, void *x, int64_t tokens, int32_t num_threads) {
    int failed = linear(
        found, l->output, l->output_bias, x, tokens, l->num_heads * l->head_dim, l->width, l->is_bf16, 1, num_threads
    );
    return failed | baton_layer_mlp(l, x, x, tokens, 1, num_threads);
}
