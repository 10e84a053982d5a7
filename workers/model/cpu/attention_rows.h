/* What one thread does to a few rows of queries and a tile of keys: scores, the online softmax, weighted values.
 *
 * Register tiles are TILE_ROWS rows x 4 keys, or x 4 chunks of a value, so that AVX2's 16 registers hold them. Inside,
 * dimensions lie as `load_chunk` gives them. While a tile of keys is read, the same places of what comes next are asked for,
 * one head of a tile and no more, which the caches hold: rows short and far apart defeat the processor's own guess.
 */
#ifndef BATON_CPU_ATTENTION_ROWS_H
#define BATON_CPU_ATTENTION_ROWS_H

#include "attention.h"

#define TILE 64 /* keys per round of the online softmax */

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

/* Walks one head's part of the rows of a tile, in order, one cache line a step. */
typedef struct {
    const void *const *rows, *const *end;
    int64_t first, at, nbytes; /* of each row, bytes [first, nbytes) */
} cursor_t;

/* Keys or values of one head in a tile: where each token's row begins, `offset` elements before the head. */
typedef struct {
    const void *const *rows;
    int count;
    int64_t offset, dim;
    cursor_t *next;
    int lines; /* to ask for, per key */
} source_t;

INLINE void fetch(cursor_t *c, int lines) {
    const void *const *rows = c->rows;
    int64_t at = c->at, nbytes = c->nbytes;
    for (; lines > 0 && rows < c->end; lines--) {
        __builtin_prefetch((const char *)*rows + at, 0, 3);
        at += 64;
        if (at >= nbytes) at = c->first, rows++;
    }
    c->at = at;
    c->rows = rows;
}

/* Scores of `rows` rows against the keys: one dot product each. `q` is [rows][dim] float32; `q_pairs` is the same in
 * bfloat16 and in order, for processors that multiply pairs of those, else NULL. */
INLINE void score_rows(
    const float *q, const uint16_t *q_pairs, float *scores, const source_t *s, int fetches, int rows, int kind
) {
    int64_t dim = s->dim, offset = s->offset, chunks = dim / LANES, whole = chunks * LANES;
    for (int j = 0; j < s->count; j += 4) { /* past the end, the last key again: those scores are not used */
        const void *key[4];
        for (int i = 0; i < 4; i++) key[i] = s->rows[j + i < s->count ? j + i : s->count - 1];
        if (fetches) fetch(s->next, 4 * s->lines);
        vecf sums[TILE_ROWS][4];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) sums[r][i] = splat(0);
        if (DOT_PAIRS && q_pairs && dim % 32 == 0) {
            for (int64_t d = 0; d < dim; d += 32)
                for (int i = 0; i < 4; i++)
                    for (int r = 0; r < rows; r++)
                        sums[r][i] = dot_pairs(sums[r][i], q_pairs + r * dim + d, key[i], offset + d);
        } else {
#pragma GCC unroll 2
            for (int64_t c = 0; c < chunks; c++) {
                vecf x[TILE_ROWS];
                for (int r = 0; r < rows; r++) x[r] = *(const vecf *)(q + r * dim + c * LANES);
                for (int i = 0; i < 4; i++) {
                    vecf k = load_chunk(key[i], offset, c, kind);
                    for (int r = 0; r < rows; r++) sums[r][i] += k * x[r];
                }
            }
        }
        for (int r = 0; r < rows; r++) sum_four(sums[r], scores + r * TILE + j);
        for (int64_t d = whole; d < dim; d++)
            for (int r = 0; r < rows; r++)
                for (int i = 0; i < 4; i++)
                    scores[r * TILE + j + i] += load_one(key[i], offset + d, kind != FLOATS) * q[r * dim + d];
    }
}

/* The same against keys laid out as [dim][TILE]: for tasks of many rows, where the transposition is shared. */
INLINE void score_transposed(const float *q, float *scores, const float *keys, int rows, int64_t dim) {
    for (int j = 0; j < TILE; j += 4 * LANES) {
        vecf sums[TILE_ROWS][4];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) sums[r][i] = splat(0);
        for (int64_t d = 0; d < dim; d++) {
            vecf x[TILE_ROWS];
            for (int r = 0; r < rows; r++) x[r] = splat(q[r * dim + d]);
            for (int i = 0; i < 4; i++) {
                vecf key = *(const vecf *)(keys + d * TILE + j + i * LANES);
                for (int r = 0; r < rows; r++) sums[r][i] += x[r] * key;
            }
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) *(vecf *)(scores + r * TILE + j + i * LANES) = sums[r][i];
    }
}

APART void score_many(const float *q, float *scores, const float *keys, int rows, int64_t dim) {
    if (rows == TILE_ROWS) score_transposed(q, scores, keys, TILE_ROWS, dim);
    else
        for (int r = 0; r < rows; r++) score_transposed(q + r * dim, scores + r * TILE, keys, 1, dim);
}

/* acc[r] = acc[r] * correction[r] + sum_j weights[r][j] * value[j], for `chunks` chunks from `first` on. */
INLINE void weigh(
    float *acc, const float *weights, const float *correction, const source_t *s, int fetches, int64_t first, int chunks,
    int rows, int kind
) {
    int64_t dim = s->dim, offset = s->offset;
    const void *const *from = s->rows;
    vecf sums[TILE_ROWS][4];
    acc += first * LANES;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < chunks; c++) sums[r][c] = *(vecf *)(acc + r * dim + c * LANES) * splat(correction[r]);
    for (int j = 0; j < s->count; j++) {
        if (fetches && j % 4 == 0) fetch(s->next, 4 * s->lines);
        vecf w[TILE_ROWS];
        for (int r = 0; r < rows; r++) w[r] = splat(weights[r * TILE + j]);
        for (int c = 0; c < chunks; c++) {
            vecf value = load_chunk(from[j], offset, first + c, kind);
            for (int r = 0; r < rows; r++) sums[r][c] += value * w[r];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < chunks; c++) *(vecf *)(acc + r * dim + c * LANES) = sums[r][c];
}

INLINE void weigh_rows(
    float *acc, const float *weights, const float *correction, const source_t *s, int fetches, int rows, int kind
) {
    int64_t dim = s->dim, chunks = dim / LANES, c = 0;
    for (; c + 4 <= chunks; c += 4) weigh(acc, weights, correction, s, fetches && c == 0, c, 4, rows, kind);
    for (; c + 2 <= chunks; c += 2) weigh(acc, weights, correction, s, fetches && c == 0, c, 2, rows, kind);
    for (; c < chunks; c++) weigh(acc, weights, correction, s, fetches && c == 0, c, 1, rows, kind);
    for (int64_t d = c * LANES; d < dim; d++) {
        for (int r = 0; r < rows; r++) {
            float sum = acc[r * dim + d] * correction[r];
            for (int j = 0; j < s->count; j++)
                sum += weights[r * TILE + j] * load_one(s->rows[j], s->offset + d, kind != FLOATS);
            acc[r * dim + d] = sum;
        }
    }
}

/* One function for each kind and number of rows, `scorers` and `weighers` [kind][rows - 1]. */
typedef void scorer(const float *, const uint16_t *, float *, const source_t *, int);
typedef void weigher(float *, const float *, const float *, const source_t *, int);
#define BOTH(kind, rows) \
    APART void score_##kind##_##rows( \
        const float *q, const uint16_t *q_pairs, float *scores, const source_t *s, int fetches \
    ) { \
        score_rows(q, q_pairs, scores, s, fetches, rows, kind); \
    } \
    APART void weigh_##kind##_##rows( \
        float *acc, const float *weights, const float *correction, const source_t *s, int fetches \
    ) { \
        weigh_rows(acc, weights, correction, s, fetches, rows, kind); \
    }
#if TILE_ROWS == 3
#define EACH(kind) BOTH(kind, 1) BOTH(kind, 2) BOTH(kind, 3)
#define ALL(what, kind) {what##_##kind##_1, what##_##kind##_2, what##_##kind##_3}
#else
#define EACH(kind) BOTH(kind, 1) BOTH(kind, 2) BOTH(kind, 3) BOTH(kind, 4)
#define ALL(what, kind) {what##_##kind##_1, what##_##kind##_2, what##_##kind##_3, what##_##kind##_4}
#endif
EACH(FLOATS)
EACH(BFLOATS)
EACH(IN_PAIRS)
static scorer *const scorers[][TILE_ROWS] = {ALL(score, FLOATS), ALL(score, BFLOATS), ALL(score, IN_PAIRS)};
static weigher *const weighers[][TILE_ROWS] = {ALL(weigh, FLOATS), ALL(weigh, BFLOATS), ALL(weigh, IN_PAIRS)};

/* One round of the online softmax for one row: scores become weights. Keys outside [low, high) do not count.
 * Returns the factor for what was summed before. */
APART float soften(float *scores, float *maximum, float *sum, int low, int high, float scale, float softcap) {
    if (softcap != 0) {
        for (int j = low; j < high; j++) scores[j] = softcap * tanhf(scores[j] * scale / softcap);
        scale = 1;
    }
    for (int j = 0; j < low; j++) scores[j] = -INFINITY;
    for (int j = high; j < TILE; j++) scores[j] = -INFINITY;
    vecf top = *(vecf *)scores;
    for (int j = LANES; j < TILE; j += LANES) top = larger(top, *(vecf *)(scores + j));
    float best = max_of(top) * scale;
    best = *maximum > best ? *maximum : best;
    if (best == -INFINITY) {
        memset(scores, 0, TILE * sizeof(float));
        return 1;
    }
    float correction = *maximum == best ? 1 : expf(*maximum - best);
    vecf total = splat(0);
    for (int j = 0; j < TILE; j += LANES) {
        vecf w = exp_of(*(vecf *)(scores + j) * splat(scale) - splat(best));
        *(vecf *)(scores + j) = w;
        total += w;
    }
    *sum = *sum * correction + sum_of(total);
    *maximum = best;
    return correction;
}

APART void transpose_keys(float *out, const source_t *s, int kind) {
    for (int j = 0; j < s->count; j++)
        for (int64_t d = 0; d < s->dim; d++)
            out[place(d, kind) * TILE + j] = load_one(s->rows[j], s->offset + d, kind != FLOATS);
}

#endif
