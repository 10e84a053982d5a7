/* Attention over paged keys and values on CPU cores; see cpu_attention.py for the interface.
 *
 * A task is a tile of queries of one chunk x a range of KV heads x a range of keys. A task reads each key and value
 * once for all query heads that share it, and keeps an online softmax (maximum, sum, weighted values) in float32 per
 * row, a row being one query of one head. Tasks that split the keys of the same rows are combined at the end by
 * their maxima and sums (the split of Flash-Decoding).
 */
#include "cpu_attention.h"

#define TILE 64 /* keys per round of the online softmax */


typedef struct {
    int32_t chunk, query, num_queries, head, num_heads; /* heads: of KV */
    int32_t first_key, end_key;
    int32_t split, num_splits;
    int64_t state; /* where the task's rows start, in floats */
} task_t;

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#define DOT_PAIRS 1
INLINE vecf dot_pairs(vecf sum, const uint16_t *a, const void *base, int64_t i) {
    __m512bh x = (__m512bh)_mm512_loadu_si512(a), y = (__m512bh)_mm512_loadu_si512((const uint16_t *)base + i);
    return (vecf)_mm512_dpbf16_ps((__m512)sum, x, y);
}
#else
#define DOT_PAIRS 0
INLINE vecf dot_pairs(vecf sum, const uint16_t *a, const void *base, int64_t i) {
    (void)a, (void)base, (void)i;
    return sum;
}
#endif

#if LANES == 16
/* The sums of four vectors, in 13 steps where four single sums take 32. */
INLINE void sum_four(const vecf *v, float *out) {
    typedef float v8 __attribute__((vector_size(32)));
    typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
    vecf p = LOW(v[0], v[1]) + HIGH(v[0], v[1]), q = LOW(v[2], v[3]) + HIGH(v[2], v[3]); /* 0 1 0 1 | 2 3 2 3 */
    vecf r = __builtin_shufflevector(p, q, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
             __builtin_shufflevector(p, q, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    union { vecf v; v8 h[2]; } a = {r};
    union { v8 v; v4 h[2]; } b = {a.h[0] + a.h[1]};
    *(v4 *)out = b.h[0] + b.h[1];
#undef LOW
#undef HIGH
}
#else
INLINE void sum_four(const vecf *v, float *out) {
    for (int i = 0; i < 4; i++) out[i] = sum_of(v[i]);
}
#endif

/* Scores of `rows` rows against `num_keys` keys: one dot product each. `q` is [rows][dim] float32; `q_pairs` is the
 * same in bfloat16, for processors that multiply pairs of those. */
INLINE void score_rows(
    const float *q, const uint16_t *q_pairs, float *scores, const void *const *keys, int num_keys, int64_t head_offset,
    int rows, int64_t dim, int is_bf16
) {
    int64_t whole = dim / LANES * LANES;
    for (int j = 0; j < num_keys; j += 4) { /* past the end, the last key again: those scores are not used */
        const void *key[4];
        for (int i = 0; i < 4; i++) key[i] = keys[j + i < num_keys ? j + i : num_keys - 1];
        vecf sums[4][4];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) sums[r][i] = splat(0);
        if (DOT_PAIRS && is_bf16 && dim % 32 == 0) {
            for (int64_t d = 0; d < dim; d += 32)
                for (int i = 0; i < 4; i++)
                    for (int r = 0; r < rows; r++)
                        sums[r][i] = dot_pairs(sums[r][i], q_pairs + r * dim + d, key[i], head_offset + d);
        } else {
            for (int64_t d = 0; d < whole; d += LANES)
                for (int i = 0; i < 4; i++) {
                    vecf x = load(key[i], head_offset + d, is_bf16);
                    for (int r = 0; r < rows; r++) sums[r][i] += x * *(const vecf *)(q + r * dim + d);
                }
        }
        for (int r = 0; r < rows; r++) {
            sum_four(sums[r], scores + r * TILE + j);
            for (int64_t d = whole; d < dim; d++)
                for (int i = 0; i < 4; i++)
                    scores[r * TILE + j + i] += load_one(key[i], head_offset + d, is_bf16) * q[r * dim + d];
        }
    }
}

/* The same against keys laid out as [dim][TILE]: for tasks of many rows, where the transposition is shared. */
INLINE void score_transposed(const float *q, float *scores, const float *keys, int rows, int64_t dim) {
    for (int j = 0; j < TILE; j += 2 * LANES) {
        vecf low[4], high[4];
        for (int r = 0; r < rows; r++) low[r] = high[r] = splat(0);
        for (int64_t d = 0; d < dim; d++) {
            vecf a = *(const vecf *)(keys + d * TILE + j), b = *(const vecf *)(keys + d * TILE + j + LANES);
            for (int r = 0; r < rows; r++) {
                vecf x = splat(q[r * dim + d]);
                low[r] += x * a;
                high[r] += x * b;
            }
        }
        for (int r = 0; r < rows; r++) {
            *(vecf *)(scores + r * TILE + j) = low[r];
            *(vecf *)(scores + r * TILE + j + LANES) = high[r];
        }
    }
}

/* values: acc[r] = acc[r] * correction[r] + sum_j weights[r][j] * value[j], `vectors` x LANES dimensions at once. */
INLINE void weigh(
    float *acc, const float *weights, const float *correction, const void *const *values, int num_keys,
    int64_t offset, int rows, int64_t dim, int vectors, int is_bf16
) {
    vecf sums[4][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = *(vecf *)(acc + r * dim + v * LANES) * splat(correction[r]);
    for (int j = 0; j < num_keys; j++) {
        for (int v = 0; v < vectors; v++) {
            vecf value = load(values[j], offset + v * LANES, is_bf16);
            for (int r = 0; r < rows; r++) sums[r][v] += value * splat(weights[r * TILE + j]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vecf *)(acc + r * dim + v * LANES) = sums[r][v];
}

INLINE void weigh_rows(
    float *acc, const float *weights, const float *correction, const void *const *values, int num_keys,
    int64_t head_offset, int rows, int64_t dim, int is_bf16
) {
    int64_t d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES)
        weigh(acc + d, weights, correction, values, num_keys, head_offset + d, rows, dim, 4, is_bf16);
    for (; d + LANES <= dim; d += LANES)
        weigh(acc + d, weights, correction, values, num_keys, head_offset + d, rows, dim, 1, is_bf16);
    for (; d < dim; d++) {
        for (int r = 0; r < rows; r++) {
            float s = acc[r * dim + d] * correction[r];
            for (int j = 0; j < num_keys; j++)
                s += weights[r * TILE + j] * load_one(values[j], head_offset + d, is_bf16);
            acc[r * dim + d] = s;
        }
    }
}

/* One round of the online softmax for one row: scores become weights. Keys outside [low, high) do not count.
 * Returns the factor for what was summed before. */
INLINE float soften(float *scores, float *maximum, float *sum, int low, int high, float scale, float softcap) {
    if (softcap != 0) {
        for (int j = low; j < high; j++) scores[j] = softcap * tanhf(scores[j] * scale / softcap);
        scale = 1;
    }
    for (int j = 0; j < low; j++) scores[j] = -INFINITY;
    for (int j = high; j < TILE; j++) scores[j] = -INFINITY;
    vecf top = splat(-INFINITY);
    for (int j = 0; j < TILE; j += LANES) {
        vecf s = *(vecf *)(scores + j) * splat(scale);
        *(vecf *)(scores + j) = s;
        top = choose(s > top, s, top);
    }
    float best = max_of(top);
    best = *maximum > best ? *maximum : best;
    if (best == -INFINITY) {
        memset(scores, 0, TILE * sizeof(float));
        return 1;
    }
    float correction = *maximum == best ? 1 : expf(*maximum - best);
    vecf total = splat(0);
    for (int j = 0; j < TILE; j += LANES) {
        vecf w = exp_of(*(vecf *)(scores + j) - splat(best));
        *(vecf *)(scores + j) = w;
        total += w;
    }
    *sum = *sum * correction + sum_of(total);
    *maximum = best;
    return correction;
}

INLINE void transpose_keys(
    float *out, const void *const *keys, int num_keys, int64_t head_offset, int64_t dim, int is_bf16
) {
    for (int j = 0; j < num_keys; j++)
        for (int64_t d = 0; d < dim; d++) out[d * TILE + j] = load_one(keys[j], head_offset + d, is_bf16);
}

/* Query, weighted values, maximum, sum, query in bfloat16. */
static int64_t floats_per_row(int64_t dim) { return 2 * dim + 2 + (dim + 1) / 2; }

INLINE void round_of_head(
    const baton_attention_args *a, const task_t *t, float *state, int rows, const void *const *keys,
    const void *const *values, int first, int num_keys, int64_t head_offset, float *transposed, int64_t dim,
    int is_bf16
) {
    float scores[4 * TILE], correction[4];
    float *q = state, *acc = q + rows * dim, *maximum = acc + rows * dim, *sum = maximum + rows;
    const uint16_t *q_pairs = (const uint16_t *)(sum + rows);
    int64_t group = a->num_heads / a->num_kv_heads;
    int many = rows >= 16;
    if (many) transpose_keys(transposed, keys, num_keys, head_offset, dim, is_bf16);
    for (int row = 0; row < rows; row += 4) {
        int n = rows - row < 4 ? rows - row : 4;
        const float *qr = q + row * dim;
        const uint16_t *pr = q_pairs + row * dim;
        if (many && n == 4) score_transposed(qr, scores, transposed, 4, dim);
        else if (n == 4) score_rows(qr, pr, scores, keys, num_keys, head_offset, 4, dim, is_bf16);
        else if (n == 3) score_rows(qr, pr, scores, keys, num_keys, head_offset, 3, dim, is_bf16);
        else if (n == 2) score_rows(qr, pr, scores, keys, num_keys, head_offset, 2, dim, is_bf16);
        else score_rows(qr, pr, scores, keys, num_keys, head_offset, 1, dim, is_bf16);
        for (int r = 0; r < n; r++) {
            int64_t position = a->num_context[t->chunk] + t->query + (row + r) / group;
            int64_t low = a->window ? position - a->window + 1 - first : 0, high = position + 1 - first;
            low = low < 0 ? 0 : low > num_keys ? num_keys : low;
            high = high < low ? low : high > num_keys ? num_keys : high;
            correction[r] = soften(scores + r * TILE, maximum + row + r, sum + row + r, low, high, a->scale, a->softcap);
        }
        float *out = acc + row * dim;
        if (n == 4) weigh_rows(out, scores, correction, values, num_keys, head_offset, 4, dim, is_bf16);
        else if (n == 3) weigh_rows(out, scores, correction, values, num_keys, head_offset, 3, dim, is_bf16);
        else if (n == 2) weigh_rows(out, scores, correction, values, num_keys, head_offset, 2, dim, is_bf16);
        else weigh_rows(out, scores, correction, values, num_keys, head_offset, 1, dim, is_bf16);
    }
}

INLINE void start_rows(const baton_attention_args *a, const task_t *t, float *state, int64_t dim, int is_bf16) {
    int64_t group = a->num_heads / a->num_kv_heads;
    int rows = t->num_queries * group;
    for (int h = 0; h < t->num_heads; h++, state += rows * floats_per_row(dim)) {
        for (int row = 0; row < rows; row++) {
            int64_t token = a->query_start[t->chunk] + t->query + row / group;
            int64_t head = (t->head + h) * group + row % group;
            int64_t from = token * a->query_token_stride + head * a->query_head_stride;
            for (int64_t d = 0; d < dim; d++) state[row * dim + d] = load_one(a->query, from + d, is_bf16);
        }
        memset(state + rows * dim, 0, rows * dim * sizeof(float));
        for (int row = 0; row < rows; row++) {
            state[2 * rows * dim + row] = -INFINITY;
            state[2 * rows * dim + rows + row] = 0;
        }
        if (DOT_PAIRS && is_bf16) {
            uint16_t *pairs = (uint16_t *)(state + 2 * rows * dim + 2 * rows);
            for (int64_t i = 0; i < rows * dim; i++) store_one(pairs, i, state[i], 1);
        }
    }
}

typedef struct {
    const void *keys[TILE], *values[TILE]; /* of the first KV head */
    int count;
} rows_t;

INLINE void locate(const baton_attention_args *a, const task_t *t, int first, rows_t *rows, int is_bf16) {
    const int32_t *table = a->block_tables + t->chunk * a->max_blocks;
    int64_t size = a->block_size, width = is_bf16 ? 2 : 4;
    rows->count = t->end_key - first < TILE ? t->end_key - first : TILE;
    for (int j = 0; j < rows->count; j++) {
        int64_t block = table[(first + j) / size], offset = (first + j) % size;
        rows->keys[j] = (const char *)a->k_cache + width * (block * a->k_block_stride + offset * a->k_token_stride);
        rows->values[j] = (const char *)a->v_cache + width * (block * a->v_block_stride + offset * a->v_token_stride);
    }
}

/* Asks for the next head's rows while this one's are summed: short rows far apart defeat the processor's own guess. */
INLINE void fetch(const rows_t *rows, int64_t offset, int64_t dim, int is_bf16) {
    int64_t width = is_bf16 ? 2 : 4;
    for (int j = 0; j < rows->count; j++)
        for (int64_t b = 0; b < dim * width; b += 64) {
            __builtin_prefetch((const char *)rows->keys[j] + offset * width + b);
            __builtin_prefetch((const char *)rows->values[j] + offset * width + b);
        }
}

INLINE void run_task(
    const baton_attention_args *a, const task_t *t, float *state, float *transposed, int64_t dim, int is_bf16
) {
    int64_t group = a->num_heads / a->num_kv_heads;
    int rows = t->num_queries * group;
    start_rows(a, t, state, dim, is_bf16);
    rows_t now, next;
    locate(a, t, t->first_key, &next, is_bf16);
    for (int first = t->first_key; first < t->end_key; first += TILE) {
        now = next;
        if (first + TILE < t->end_key) locate(a, t, first + TILE, &next, is_bf16);
        float *of_head = state;
        for (int h = 0; h < t->num_heads; h++, of_head += rows * floats_per_row(dim)) {
            if (h + 1 < t->num_heads) fetch(&now, (t->head + h + 1) * dim, dim, is_bf16);
            else fetch(&next, t->head * dim, dim, is_bf16);
            round_of_head(
                a, t, of_head, rows, now.keys, now.values, first, now.count, (t->head + h) * dim, transposed, dim, is_bf16
            );
        }
    }
}

/* The constants let the compiler unroll for the usual sizes. */
static void dispatch(const baton_attention_args *a, const task_t *t, float *state, float *transposed) {
    if (a->is_bf16) {
        if (a->head_dim == 64) run_task(a, t, state, transposed, 64, 1);
        else if (a->head_dim == 128) run_task(a, t, state, transposed, 128, 1);
        else run_task(a, t, state, transposed, a->head_dim, 1);
    } else {
        run_task(a, t, state, transposed, a->head_dim, 0);
    }
}

/* Combines the splits of the rows of `t`, the first of them, and writes the output. */
static void finish(const baton_attention_args *a, const task_t *t, float *workspace) {
    int64_t group = a->num_heads / a->num_kv_heads, dim = a->head_dim;
    int rows = t->num_queries * group;
    for (int h = 0; h < t->num_heads; h++) {
        for (int row = 0; row < rows; row++) {
            int64_t head = (t->head + h) * group + row % group;
            float best = a->sinks ? a->sinks[head] : -INFINITY, sum = 0;
            for (int s = 0; s < t->num_splits; s++) {
                const float *state = workspace + t[s].state + h * rows * floats_per_row(dim);
                float m = state[2 * rows * dim + row];
                best = m > best ? m : best;
            }
            if (a->sinks) sum = expf(a->sinks[head] - best);
            for (int s = 0; s < t->num_splits; s++) {
                const float *state = workspace + t[s].state + h * rows * floats_per_row(dim);
                sum += state[2 * rows * dim + rows + row] * expf(state[2 * rows * dim + row] - best);
            }
            int64_t to = ((a->query_start[t->chunk] + t->query + row / group) * a->num_heads + head) * dim;
            float *values = workspace + t->state + h * rows * floats_per_row(dim) + (rows + row) * dim;
            for (int s = 0; s < t->num_splits; s++) { /* summed where the first split's are */
                const float *state = workspace + t[s].state + h * rows * floats_per_row(dim);
                const float *part = state + (rows + row) * dim;
                float share = expf(state[2 * rows * dim + row] - best) / sum;
                for (int64_t d = 0; d < dim; d++) values[d] = part[d] * share + (s ? values[d] : 0);
            }
            int64_t whole = dim / LANES * LANES;
            for (int64_t d = 0; d < whole; d += LANES) store(a->output, to + d, *(vecf *)(values + d), a->is_bf16);
            for (int64_t d = whole; d < dim; d++) store_one(a->output, to + d, values[d], a->is_bf16);
        }
    }
}

enum { QUERY_TILE_ROWS = 64, MIN_SPLIT_KEYS = 256 };

/* Cuts the batch into tasks; with `tasks` NULL it counts them. Few and long rows are split by keys and by heads until
 * every thread has work; else a task takes all KV heads of a decode, whose memory lies together. */
static int64_t cut(const baton_attention_args *a, task_t *tasks, int64_t *num_floats) {
    int64_t group = a->num_heads / a->num_kv_heads, count = 0, floats = 0;
    int64_t tile = QUERY_TILE_ROWS / group > 0 ? QUERY_TILE_ROWS / group : 1;
    int64_t wanted = (4 * (int64_t)a->num_threads + a->num_chunks - 1) / a->num_chunks; /* tasks per chunk */
    for (int64_t c = 0; c < a->num_chunks; c++) {
        int64_t num_queries = a->query_start[c + 1] - a->query_start[c];
        if (num_queries > a->max_queries) continue;
        for (int64_t q = 0; q < num_queries; q += tile) {
            int64_t n = num_queries - q < tile ? num_queries - q : tile;
            int64_t end = a->num_context[c] + q + n;
            int64_t first = a->window && end - n + 1 > a->window ? end - n + 1 - a->window : 0;
            int64_t splits = (end - first) / MIN_SPLIT_KEYS, heads = a->num_kv_heads;
            if (n * group >= 16) heads = 1;
            splits = splits < 1 ? 1 : splits > wanted ? wanted : splits;
            if (a->num_threads == 1 || n > 1) splits = 1;
            while (heads > 1 && a->num_kv_heads / heads * splits < wanted) heads = (heads + 1) / 2;
            int64_t keys = (end - first + splits - 1) / splits;
            for (int64_t h = 0; h < a->num_kv_heads; h += heads) {
                int64_t nh = a->num_kv_heads - h < heads ? a->num_kv_heads - h : heads;
                for (int64_t s = 0; s < splits; s++) {
                    if (tasks) {
                        int64_t from = first + s * keys, to = from + keys < end ? from + keys : end;
                        tasks[count] = (task_t){c, q, n, h, nh, from, to, s, splits, floats};
                    }
                    count++;
                    floats += (nh * n * group * floats_per_row(a->head_dim) + 15) / 16 * 16;
                }
            }
        }
    }
    *num_floats = floats;
    return count;
}

/* Returns 0, or 1 when there is no memory for the partial results. */
int baton_paged_attention(const baton_attention_args *a) {
    int64_t floats;
    int64_t count = cut(a, NULL, &floats);
    if (!count) return 0;
    task_t *tasks = malloc(count * sizeof(task_t));
    float *workspace = malloc((floats + a->num_threads * TILE * a->head_dim) * sizeof(float));
    if (!tasks || !workspace) {
        free(tasks);
        free(workspace);
        return 1;
    }
    cut(a, tasks, &floats);
#pragma omp parallel num_threads(a->num_threads)
    {
        int thread = 0;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        thread = omp_get_thread_num();
#endif
        float *transposed = workspace + floats + thread * TILE * a->head_dim;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; i++) {
            dispatch(a, tasks + i, workspace + tasks[i].state, transposed);
            if (tasks[i].num_splits == 1) finish(a, tasks + i, workspace);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
            if (tasks[i].split == 0 && tasks[i].num_splits > 1) finish(a, tasks + i, workspace);
    }
    free(tasks);
    free(workspace);
    return 0;
}
