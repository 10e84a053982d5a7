/* Attention over paged keys and values on CPU cores; see attention.py for the interface.
 *
 * A task is a tile of queries of one chunk x a range of KV heads x a range of keys. A task reads each key and value
 * once for all query heads that share it, and keeps an online softmax (maximum, sum, weighted values) in float32 per
 * row, a row being one query of one head. Tasks that split the keys of the same rows are combined at the end by
 * their maxima and sums (the split of Flash-Decoding).
 */
#include "attention_rows.h"

typedef struct {
    int32_t chunk, query, num_queries, head, num_heads; /* heads: of KV */
    int32_t first_key, end_key;
    int32_t split, num_splits;
    int64_t state; /* where the task's rows start, in floats */
} task_t;

/* Query, weighted values, maximum, sum, query in bfloat16. */
static int64_t floats_per_row(int64_t dim) { return 2 * dim + 2 + (dim + 1) / 2; }

/* bfloat16 is read in pairs where whole pairs of vectors make a head. */
static int kind_of(const baton_attention_args *a) {
    if (!a->is_bf16) return FLOATS;
    return a->head_dim % (2 * LANES) ? BFLOATS : IN_PAIRS;
}

/* `soften` for a row of a tree, which sees of its own chunk the tokens on the way to it alone. */
static float soften_seen(
    const baton_attention_args *a, const task_t *t, int64_t token, int first, float *scores, float *maximum, float *sum,
    int count
) {
    int64_t own = (int64_t)a->num_context[t->chunk] - first, low = a->window ? a->positions[token] - a->window + 1 - first : 0;
    if (own > count) own = count;
    if (low > own) low = own; /* `seen` says what is too old in the chunk */
    if (low < 0) low = 0;
    if (a->softcap != 0)
        for (int64_t j = low; j < count; j++) scores[j] = a->softcap * tanhf(scores[j] * a->scale / a->softcap);
    for (int64_t j = own < 0 ? 0 : own; j < count; j++)
        if (!(a->seen[token] >> (first + j - a->num_context[t->chunk]) & 1)) scores[j] = -INFINITY;
    return soften(scores, maximum, sum, low, count, a->softcap != 0 ? 1 : a->scale, 0);
}

/* The rows of one KV head against one tile of keys, which begins at key `first`. */
static void round_of_head(
    const baton_attention_args *a, const task_t *t, float *state, int first, const source_t *keys,
    const source_t *values, float *transposed, int kind
) {
    float scores[TILE_ROWS * TILE], correction[TILE_ROWS];
    int64_t dim = a->head_dim, group = a->num_heads / a->num_kv_heads;
    int rows = t->num_queries * group, parts = (rows + TILE_ROWS - 1) / TILE_ROWS, is_many = rows >= 16;
    float *maximum = state + 2 * rows * dim, *sum = maximum + rows;
    const uint16_t *q_pairs = (const uint16_t *)(sum + rows);
    if (is_many) transpose_keys(transposed, keys, kind);
    for (int part = 0, row = 0, n; part < parts; part++, row += n) {
        n = (rows - row + parts - part - 1) / (parts - part); /* 4 rows are 2 + 2 rather than 3 + 1 */
        float *q = state + row * dim;
        if (is_many) score_many(q, scores, transposed, n, dim);
        else scorers[kind][n - 1](q, DOT_PAIRS && a->is_bf16 ? q_pairs + row * dim : NULL, scores, keys, part == 0);
        for (int r = 0; r < n; r++) {
            int64_t place = t->query + (row + r) / group, token = a->query_start[t->chunk] + place;
            if (a->seen && a->seen[token]) {
                correction[r] = soften_seen(a, t, token, first, scores + r * TILE, maximum + row + r, sum + row + r, keys->count);
                continue;
            }
            int64_t position = a->num_context[t->chunk] + place;
            int64_t low = a->window ? position - a->window + 1 - first : 0, high = position + 1 - first;
            low = low < 0 ? 0 : low > keys->count ? keys->count : low;
            high = high < low ? low : high > keys->count ? keys->count : high;
            correction[r] = soften(scores + r * TILE, maximum + row + r, sum + row + r, low, high, a->scale, a->softcap);
        }
        weighers[kind][n - 1](q + rows * dim, scores, correction, values, part == 0);
    }
}

static void start_rows(const baton_attention_args *a, const task_t *t, float *state, int kind) {
    int64_t dim = a->head_dim, group = a->num_heads / a->num_kv_heads;
    int rows = t->num_queries * group;
    for (int h = 0; h < t->num_heads; h++, state += rows * floats_per_row(dim)) {
        uint16_t *pairs = (uint16_t *)(state + 2 * rows * dim + 2 * rows);
        for (int row = 0; row < rows; row++) {
            int64_t token = a->query_start[t->chunk] + t->query + row / group;
            int64_t head = (t->head + h) * group + row % group;
            int64_t from = token * a->query_token_stride + head * a->query_head_stride;
            int64_t chunks = dim / LANES;
            for (int64_t c = 0; c < chunks; c++)
                *(vecf *)(state + row * dim + c * LANES) = load_chunk(a->query, from, c, kind);
            for (int64_t d = chunks * LANES; d < dim; d++) state[row * dim + d] = load_one(a->query, from + d, a->is_bf16);
            if (DOT_PAIRS && a->is_bf16) memcpy(pairs + row * dim, (const uint16_t *)a->query + from, dim * 2);
            state[2 * rows * dim + row] = -INFINITY;
            state[2 * rows * dim + rows + row] = 0;
        }
        memset(state + rows * dim, 0, rows * dim * sizeof(float));
    }
}

typedef struct {
    const void *keys[TILE], *values[TILE]; /* of the first KV head */
    int count;
} rows_t;

static void locate(const baton_attention_args *a, const task_t *t, int first, rows_t *rows) {
    const int32_t *table = a->block_tables + t->chunk * a->max_blocks + first / a->block_size;
    int64_t width = a->is_bf16 ? 2 : 4, k_step = width * a->k_token_stride, v_step = width * a->v_token_stride;
    rows->count = t->end_key - first < TILE ? t->end_key - first : TILE;
    int offset = first % a->block_size;
    for (int j = 0; j < rows->count; table++, offset = 0) {
        const char *key = (const char *)a->k_cache + width * *table * a->k_block_stride + offset * k_step;
        const char *value = (const char *)a->v_cache + width * *table * a->v_block_stride + offset * v_step;
        for (; j < rows->count && offset < a->block_size; j++, offset++, key += k_step, value += v_step) {
            rows->keys[j] = key;
            rows->values[j] = value;
        }
    }
}

static void run_task(const baton_attention_args *a, const task_t *t, float *state, float *transposed) {
    int rows = t->num_queries * (a->num_heads / a->num_kv_heads), kind = kind_of(a);
    int64_t head_nbytes = a->head_dim * (a->is_bf16 ? 2 : 4), lines = (head_nbytes + 63) / 64;
    int64_t begin = t->head * head_nbytes;
    start_rows(a, t, state, kind);
    rows_t tiles[2];
    locate(a, t, t->first_key, tiles);
    for (int first = t->first_key, i = 0; first < t->end_key; first += TILE, i ^= 1) {
        rows_t *now = tiles + i, *next = tiles + (i ^ 1);
        next->count = 0;
        if (first + TILE < t->end_key) locate(a, t, first + TILE, next);
        for (int h = 0; h < t->num_heads; h++) {
            rows_t *ahead = h + 1 < t->num_heads ? now : next; /* the next head of these tokens, else the first of the next */
            int64_t from = begin + (h + 1 < t->num_heads ? h + 1 : 0) * head_nbytes, to = from + head_nbytes;
            cursor_t keys_next = {ahead->keys, ahead->keys + ahead->count, from, from, to};
            cursor_t values_next = {ahead->values, ahead->values + ahead->count, from, from, to};
            int64_t offset = (t->head + h) * a->head_dim;
            const source_t keys = {now->keys, now->count, offset, a->head_dim, &keys_next, lines};
            const source_t values = {now->values, now->count, offset, a->head_dim, &values_next, lines};
            round_of_head(a, t, state + h * rows * floats_per_row(a->head_dim), first, &keys, &values, transposed, kind);
        }
    }
}

/* Combines the splits of the rows of `t`, the first of them, and writes the output. */
static void finish(const baton_attention_args *a, const task_t *t, float *workspace) {
    int64_t group = a->num_heads / a->num_kv_heads, dim = a->head_dim;
    int kind = kind_of(a);
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
            int64_t whole = kind == IN_PAIRS ? 0 : dim / LANES * LANES;
            for (int64_t d = 0; d < whole; d += LANES) store(a->output, to + d, *(vecf *)(values + d), a->is_bf16);
            for (int64_t d = whole; d < dim; d++) store_one(a->output, to + d, values[place(d, kind)], a->is_bf16);
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
            int64_t oldest = a->num_context[c] + (a->seen && a->seen[a->query_start[c]] ? 0 : q); /* of the positions */
            int64_t first = a->window && oldest + 1 > a->window ? oldest + 1 - a->window : 0;
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
            run_task(a, tasks + i, workspace + tasks[i].state, transposed);
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
