/* Attention of chunks of many queries, in bfloat16 by products of tiles; see attention.py. Tiles are AMX's where the
 * processor has them and the system grants them, else blocks of registers under AVX-512's dot products of pairs.
 *
 * Keys and values of a chunk are first laid out as tiles, once per KV head and for all queries: keys as 16 pairs of
 * dimensions x 16 keys, values as 16 pairs of keys x 16 dimensions. A task is then 32 queries of one head against
 * rounds of ROUND keys: scores by tiles, the online softmax by rows in float32, weights in bfloat16 by tiles again.
 */
#include "attention.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#if defined(__AMX_BF16__) && defined(__linux__)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define AMX 0
#endif

static int use_amx; /* set by choose() alone */

enum { ROWS = 32, ROUND = 256, TILE_WORDS = 256, MAX_DIM = 256 };

/* Of one chunk. Packed keys: [kv head][key / 16][dim / 32][256 words]; values: [kv head][key / 32][dim / 16][256]. */
typedef struct {
    int64_t chunk, num_queries, context;
    int64_t first, num_keys;        /* keys [first, first + num_keys), num_keys a multiple of 32 */
    int64_t end;                    /* of keys that exist */
    int64_t tiles;                  /* where its packed keys begin, in words; values follow */
    int64_t first_task;
} chunk_t;

/* out[i * 16 + j] = rows[j][i] for 16 words of each of 16 rows. */
INLINE void transpose(const uint32_t *const *rows, int64_t from, uint32_t *out) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(rows[i] + from);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + k + 2]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + k + 2]);
        }
    for (int k = 0; k < 4; k++) { /* a[4 g + k] holds words k, k + 4, k + 8, k + 12 of rows 4 g to 4 g + 3 */
        __m512i low = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x88), high = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xdd);
        __m512i low2 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x88);
        __m512i high2 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xdd);
        _mm512_storeu_si512(out + k * 16, _mm512_shuffle_i32x4(low, low2, 0x88));
        _mm512_storeu_si512(out + (k + 4) * 16, _mm512_shuffle_i32x4(high, high2, 0x88));
        _mm512_storeu_si512(out + (k + 8) * 16, _mm512_shuffle_i32x4(low, low2, 0xdd));
        _mm512_storeu_si512(out + (k + 12) * 16, _mm512_shuffle_i32x4(high, high2, 0xdd));
    }
}

/* Lays out 32 keys and values from local key `at` on; what is past the end is zero. */
static void pack(const baton_attention_args *a, const chunk_t *c, int64_t head, int64_t at, uint32_t *words) {
    int64_t dim = a->head_dim, size = a->block_size;
    uint32_t *keys = words + c->tiles + (head * c->num_keys + at) * (dim / 2);
    uint32_t *values = words + c->tiles + ((a->num_kv_heads + head) * c->num_keys + at) * (dim / 2);
    const int32_t *table = a->block_tables + c->chunk * a->max_blocks;
    static const uint16_t nothing[MAX_DIM];
    const uint16_t *v_rows[32];
    const uint32_t *k_rows[32];
    for (int j = 0; j < 32; j++) {
        int64_t key = c->first + at + j, block = key < c->end ? table[key / size] : 0, offset = key % size;
        const uint16_t *k = (const uint16_t *)a->k_cache + block * a->k_block_stride + offset * a->k_token_stride + head * dim;
        const uint16_t *v = (const uint16_t *)a->v_cache + block * a->v_block_stride + offset * a->v_token_stride + head * dim;
        if (key >= c->end) k = v = nothing;
        v_rows[j] = v;
        k_rows[j] = (const uint32_t *)k;
    }
    for (int half = 0; half < 2; half++)
        for (int64_t step = 0; step < dim / 32; step++)
            transpose(k_rows + half * 16, step * 16, keys + (half * (dim / 32) + step) * TILE_WORDS);
    for (int64_t tile = 0; tile < dim / 16; tile++)
        for (int pair = 0; pair < 16; pair++)
            for (int d = 0; d < 16; d++)
                values[tile * TILE_WORDS + pair * 16 + d] =
                    v_rows[2 * pair][tile * 16 + d] | (uint32_t)v_rows[2 * pair + 1][tile * 16 + d] << 16;
}

#define UNSEEN (-1e30f) /* a score that counts for nothing, and yet makes no NaN */

typedef struct {
    float scores[ROWS][ROUND] __attribute__((aligned(64)));
    uint16_t weights[ROWS][ROUND] __attribute__((aligned(64)));
    float values[ROWS * MAX_DIM] __attribute__((aligned(64)));   /* [row][dim], as the queries: no gaps, since rows */
    uint16_t query[ROWS * MAX_DIM] __attribute__((aligned(64))); /* at powers of two would share few cache lines */
    float maximum[ROWS], sum[ROWS];
} work_t;

#if AMX
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tile_config;

/* Tiles 0-3: sums of (upper, lower rows) x (left, right columns); 4, 5: upper and lower rows; 6, 7: columns. */
static void configure(int upper, int lower) {
    tile_config config = {.palette = 1};
    if (!lower) lower = 1;
    const int rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
    for (int i = 0; i < 8; i++) {
        config.rows[i] = rows[i];
        config.bytes_per_row[i] = 64;
    }
    _tile_loadconfig(&config);
}

INLINE void score_amx(work_t *w, const uint32_t *keys, int count, int64_t dim, int lower) {
    int64_t per_16 = dim / 32 * TILE_WORDS;
    for (int j = 0; j < count; j += 32) {
        const uint32_t *left = keys + j / 16 * per_16, *right = left + per_16;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t step = 0; step < dim / 32; step++) {
            _tile_loadd(4, w->query + step * 32, dim * 2);
            _tile_loadd(6, left + step * TILE_WORDS, 64);
            _tile_loadd(7, right + step * TILE_WORDS, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (lower) {
                _tile_loadd(5, w->query + 16 * dim + step * 32, dim * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, &w->scores[0][j], ROUND * 4);
        _tile_stored(1, &w->scores[0][j + 16], ROUND * 4);
        if (lower) {
            _tile_stored(2, &w->scores[16][j], ROUND * 4);
            _tile_stored(3, &w->scores[16][j + 16], ROUND * 4);
        }
    }
}

INLINE void weigh_amx(work_t *w, const uint32_t *values, int count, int64_t dim, int lower) {
    for (int64_t d = 0; d < dim; d += 32) {
        _tile_loadd(0, w->values + d, dim * 4);
        _tile_loadd(1, w->values + d + 16, dim * 4);
        if (lower) {
            _tile_loadd(2, w->values + 16 * dim + d, dim * 4);
            _tile_loadd(3, w->values + 16 * dim + d + 16, dim * 4);
        }
        for (int j = 0; j < count; j += 32) {
            const uint32_t *left = values + (j / 32 * (dim / 16) + d / 16) * TILE_WORDS;
            _tile_loadd(4, &w->weights[0][j], ROUND * 2);
            _tile_loadd(6, left, 64);
            _tile_loadd(7, left + TILE_WORDS, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (lower) {
                _tile_loadd(5, &w->weights[16][j], ROUND * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, w->values + d, dim * 4);
        _tile_stored(1, w->values + d + 16, dim * 4);
        if (lower) {
            _tile_stored(2, w->values + 16 * dim + d, dim * 4);
            _tile_stored(3, w->values + 16 * dim + d + 16, dim * 4);
        }
    }
}

static int granted(void) { /* the operating system grants the tiles' registers to the process on request */
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

/* `sums[i][c]` += rows i of pairs against columns of pairs: 8 rows x 32 columns, `depth` pairs.
 *
 * rows: [8] of `row_stride` words; left, right: [depth][16] words, 16 columns each; both go on at `tile_stride` words
 * after each 16 pairs.
 */
INLINE void multiply(
    __m512 sums[8][2], const uint32_t *rows, int64_t row_stride, const uint32_t *left, const uint32_t *right,
    int64_t tile_stride, int64_t depth
) {
    for (int64_t tile = 0; tile < depth / 16; tile++)
        for (int pair = 0; pair < 16; pair++) {
            __m512bh l = (__m512bh)_mm512_load_si512(left + tile * tile_stride + pair * 16);
            __m512bh r = (__m512bh)_mm512_load_si512(right + tile * tile_stride + pair * 16);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m512bh x = (__m512bh)_mm512_set1_epi32(rows[i * row_stride + tile * 16 + pair]);
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, l);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, r);
            }
        }
}

INLINE void score_dots(work_t *w, const uint32_t *keys, int count, int64_t dim, int rows) {
    int64_t per_16 = dim / 32 * TILE_WORDS;
    for (int j = 0; j < count; j += 32)
        for (int row = 0; row < rows; row += 8) {
            const uint32_t *left = keys + j / 16 * per_16;
            __m512 sums[8][2] = {0};
            multiply(sums, (const uint32_t *)(w->query + row * dim), dim / 2, left, left + per_16, TILE_WORDS, dim / 2);
            for (int i = 0; i < 8; i++)
                for (int c = 0; c < 2; c++) _mm512_store_ps(&w->scores[row + i][j + 16 * c], sums[i][c]);
        }
}

INLINE void weigh_dots(work_t *w, const uint32_t *values, int count, int64_t dim, int rows) {
    for (int64_t d = 0; d < dim; d += 32)
        for (int row = 0; row < rows; row += 8) {
            const uint32_t *left = values + d / 16 * TILE_WORDS;
            float *at = w->values + row * dim + d;
            __m512 sums[8][2];
            for (int i = 0; i < 8; i++)
                for (int c = 0; c < 2; c++) sums[i][c] = _mm512_load_ps(at + i * dim + 16 * c);
            multiply(
                sums, (const uint32_t *)w->weights[row], ROUND / 2, left, left + TILE_WORDS, dim / 16 * TILE_WORDS,
                count / 2
            );
            for (int i = 0; i < 8; i++)
                for (int c = 0; c < 2; c++) _mm512_store_ps(at + i * dim + 16 * c, sums[i][c]);
        }
}

/* scores[row][j] = query[row] . key[j] for `count` keys, a multiple of 32 */
INLINE void score(work_t *w, const uint32_t *keys, int count, int64_t dim, int rows) {
#if AMX
    if (use_amx) {
        score_amx(w, keys, count, dim, rows > 16);
        return;
    }
#endif
    score_dots(w, keys, count, dim, rows);
}

/* values[row] += sum_j weights[row][j] * value[j] */
INLINE void weigh(work_t *w, const uint32_t *values, int count, int64_t dim, int rows) {
#if AMX
    if (use_amx) {
        weigh_amx(w, values, count, dim, rows > 16);
        return;
    }
#endif
    weigh_dots(w, values, count, dim, rows);
}

/* Keys outside [low, high) of this round do not count for this row. */
static void hide(float *s, int low, int high, int count) {
    for (int j = 0; j < low; j++) s[j] = UNSEEN;
    for (int j = high; j < count; j++) s[j] = UNSEEN;
}

/* Of the keys from `own` on, which are the chunk's from its token `token` on, those that `seen` lacks do not count. */
static void hide_others(float *s, int64_t own, int64_t token, uint64_t seen, int64_t count) {
    for (int64_t j = own; j < count; j++, token++)
        if (token > 63 || !(seen >> token & 1)) s[j] = UNSEEN;
}

/* One row's scores become weights. `unit` is the scale of scores, times log2(e): maxima are kept without it. */
INLINE void soften(work_t *w, int row, float unit, int count, int64_t dim) {
    const float *s = w->scores[row];
    uint16_t *weights = w->weights[row];
    __m512 top = _mm512_set1_ps(w->maximum[row]), other = top;
    for (int j = 0; j < count; j += 32) {
        top = _mm512_max_ps(top, _mm512_load_ps(s + j));
        other = _mm512_max_ps(other, _mm512_load_ps(s + j + 16));
    }
    float best = _mm512_reduce_max_ps(_mm512_max_ps(top, other));
    __m512 scale = _mm512_set1_ps(unit), shift = _mm512_set1_ps(best * unit);
    __m512 total = _mm512_setzero_ps(), rest = total;
    for (int j = 0; j < count; j += 32) {
        __m512 x = rough_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + j), scale, shift));
        __m512 y = rough_exp2(_mm512_fmsub_ps(_mm512_load_ps(s + j + 16), scale, shift));
        total = _mm512_add_ps(total, x);
        rest = _mm512_add_ps(rest, y);
        _mm512_store_si512(weights + j, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    }
    if (best != w->maximum[row]) {
        float correction = exp2f((w->maximum[row] - best) * unit);
        w->maximum[row] = best;
        w->sum[row] *= correction;
        for (int64_t d = 0; d < dim; d += 16) {
            float *value = w->values + row * dim + d;
            _mm512_store_ps(value, _mm512_mul_ps(_mm512_load_ps(value), _mm512_set1_ps(correction)));
        }
    }
    w->sum[row] += _mm512_reduce_add_ps(_mm512_add_ps(total, rest));
}

static void finish(const baton_attention_args *a, work_t *w, int64_t token, int64_t head, int rows) {
    float scale = a->softcap != 0 ? 1 : a->scale;
    for (int row = 0; row < rows; row++) {
        float sum = w->sum[row], factor = 1;
        if (a->sinks) { /* a logit of its own, which takes part in the sum and carries no value */
            float maximum = w->maximum[row] * scale, best = a->sinks[head] > maximum ? a->sinks[head] : maximum;
            factor = expf(maximum - best);
            sum = sum * factor + expf(a->sinks[head] - best);
        }
        uint16_t *out = (uint16_t *)a->output + ((token + row) * a->num_heads + head) * a->head_dim;
        __m512 share = _mm512_set1_ps(factor / sum);
        for (int64_t d = 0; d < a->head_dim; d += 16)
            _mm256_storeu_si256(
                (__m256i *)(out + d), (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_load_ps(w->values + row * a->head_dim + d), share))
            );
    }
}

/* Queries [from, from + rows) of one head of a chunk, rows <= 32. */
INLINE void attend(
    const baton_attention_args *a, const chunk_t *c, const uint32_t *words, work_t *w, int64_t head, int64_t from,
    int rows, int64_t dim
) {
    int64_t kv_head = head / (a->num_heads / a->num_kv_heads), token = a->query_start[c->chunk] + from;
    const uint32_t *keys = words + c->tiles + kv_head * c->num_keys * (dim / 2);
    const uint32_t *values = keys + a->num_kv_heads * c->num_keys * (dim / 2);
    const uint16_t *query = (const uint16_t *)a->query + token * a->query_token_stride + head * a->query_head_stride;
    float unit = (a->softcap != 0 ? 1 : a->scale) * 1.44269504f;
#if AMX
    if (use_amx) configure(rows > 16 ? 16 : rows, rows > 16 ? rows - 16 : 0);
#endif
    for (int row = 0; row < rows; row++) {
        w->maximum[row] = UNSEEN;
        w->sum[row] = 0;
        memset(w->values + row * dim, 0, dim * sizeof(float));
        memcpy(w->query + row * dim, query + row * a->query_token_stride, dim * 2);
    }
    int64_t end = c->context + from + rows - c->first; /* local, of what the last row sees */
    const uint64_t *seen = a->seen && a->seen[token] ? a->seen + token : NULL; /* of a tree: what each row sees of it */
    int64_t begin = a->window && !seen ? c->context + from + 1 - a->window - c->first : 0;
    for (int64_t at = begin > 0 ? begin / 32 * 32 : 0; at < end; at += ROUND) {
        int count = end - at < ROUND ? (end - at + 31) / 32 * 32 : ROUND;
        score(w, keys + at * (dim / 2), count, dim, rows);
        for (int row = 0; row < rows; row++) {
            int64_t position = c->context + from + row - c->first - at;
            int64_t low = a->window ? position - a->window + 1 : 0, high = position + 1;
            int64_t own = c->context - c->first - at; /* where the chunk's keys begin */
            if (seen && a->window) {
                low = a->positions[token + row] - a->window + 1 - c->first - at;
                low = low < own ? low : own;
            }
            if (a->softcap != 0)
                for (int j = 0; j < count; j++)
                    w->scores[row][j] = a->softcap * tanhf(w->scores[row][j] * a->scale / a->softcap);
            if (low > 0 || high < count) hide(w->scores[row], low < count ? low : count, high < 0 ? 0 : high, count);
            if (seen && own < count) hide_others(w->scores[row], own < 0 ? 0 : own, own < 0 ? -own : 0, seen[row], count);
            soften(w, row, unit, count, dim);
        }
        weigh(w, values + at * (dim / 2), count, dim, rows);
    }
    finish(a, w, token, head, rows);
}

/* Describes the chunks of more than max_queries queries. Returns how many; `num_words` is what their tiles take. */
static int64_t describe(const baton_attention_args *a, chunk_t *chunks, int64_t *num_words, int64_t *num_tasks) {
    int64_t count = 0;
    *num_words = *num_tasks = 0;
    for (int64_t i = 0; i < a->num_chunks; i++) {
        int64_t n = a->query_start[i + 1] - a->query_start[i], context = a->num_context[i];
        if (n <= a->max_queries) continue;
        int64_t first = a->window && context + 1 > a->window ? context + 1 - a->window : 0, end = context + n;
        int64_t num_keys = (end - first + 31) / 32 * 32;
        chunks[count++] = (chunk_t){i, n, context, first, num_keys, end, *num_words, *num_tasks};
        *num_words += a->num_kv_heads * num_keys * a->head_dim;
        *num_tasks += a->num_heads * ((n + ROWS - 1) / ROWS);
    }
    return count;
}

static void run_task(
    const baton_attention_args *a, const chunk_t *chunks, int64_t count, const uint32_t *words, int64_t task, work_t *w
) {
    const chunk_t *c = chunks + count - 1;
    while (c->first_task > task) c--;
    int64_t tiles = (c->num_queries + ROWS - 1) / ROWS, local = task - c->first_task;
    int64_t head = local / tiles, from = (tiles - 1 - local % tiles) * ROWS; /* the longest first */
    int rows = c->num_queries - from < ROWS ? c->num_queries - from : ROWS;
    if (a->head_dim == 64) attend(a, c, words, w, head, from, rows, 64);
    else if (a->head_dim == 128) attend(a, c, words, w, head, from, rows, 128);
    else attend(a, c, words, w, head, from, rows, a->head_dim);
}

/* Which products serve from now on, `most` at most: 2 AMX, 1 AVX-512, 0 none. */
int baton_attention_tiles_choose(int most) {
#if AMX
    use_amx = most >= 2 && granted();
#endif
    return most < 1 ? 0 : 1 + use_amx;
}

/* head_dim is a multiple of 32, at most MAX_DIM. Returns 0, or 1 when there is no memory for the tiles. */
int baton_paged_attention_tiles(const baton_attention_args *a) {
    int64_t num_words, num_tasks, failed = 0;
    chunk_t *chunks = malloc(a->num_chunks * sizeof(chunk_t));
    if (!chunks) return 1;
    int64_t count = describe(a, chunks, &num_words, &num_tasks);
    uint32_t *words = aligned_alloc(64, (num_words * 4 + 63) / 64 * 64);
    if (!words) {
        free(chunks);
        return 1;
    }
#pragma omp parallel num_threads(a->num_threads)
    {
        for (int64_t i = 0; i < count; i++) {
            int64_t parts = chunks[i].num_keys / 32;
#pragma omp for schedule(static) nowait
            for (int64_t p = 0; p < parts * a->num_kv_heads; p++)
                pack(a, chunks + i, p / parts, p % parts * 32, words);
        }
#pragma omp barrier
        work_t *w = aligned_alloc(64, sizeof(work_t));
        if (w) memset(w, 0, sizeof(work_t)); /* products take rows in groups: the last of a group may be no query's */
        else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < num_tasks; task++)
            if (w) run_task(a, chunks, count, words, task, w);
#if AMX
        if (use_amx) _tile_release();
#endif
        free(w);
    }
    free(words);
    free(chunks);
    return failed;
}

#else

int baton_attention_tiles_choose(int most) { return most < 0; }
int baton_paged_attention_tiles(const baton_attention_args *a) { return a != NULL; }

#endif
