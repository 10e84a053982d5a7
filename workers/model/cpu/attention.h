/* What the attention kernels are told; `_Args` of attention.py is the same. */
#ifndef BATON_CPU_ATTENTION_H
#define BATON_CPU_ATTENTION_H

#include "vectors.h"

typedef struct {
    const void *query, *k_cache, *v_cache;
    void *output;
    const int32_t *query_start, *num_context, *block_tables;
    const float *sinks; /* [num_heads] or NULL */
    /* Of rows of trees, NULL without any: the bits of the chunk's tokens that a row sees, its own included (0: the row is
     * of no tree); and each row's position. */
    const uint64_t *seen;
    const int64_t *positions;
    int64_t num_chunks, max_blocks, block_size, num_heads, num_kv_heads, head_dim;
    int64_t query_token_stride, query_head_stride; /* all strides in elements */
    int64_t k_block_stride, k_token_stride, v_block_stride, v_token_stride;
    int64_t window; /* 0: none */
    float scale, softcap; /* softcap 0: none */
    int32_t max_queries; /* chunks of more are not for the kernel of few queries, chunks of fewer for no other */
    int32_t is_bf16, num_threads;
} baton_attention_args;

#endif
