/* Products of activations and weights, y = x W^T + bias, for weights kept in bfloat16 and laid out once as panels.
 * Weights are widened in registers, sums are in float32, and each is taken in the order of its inputs, however many
 * rows there are: what comes of a row does not depend on the rows beside it.
 *
 * A panel is COLUMNS outputs: [input][LANES] words, each of outputs j (low half) and j + LANES (high half), so that a
 * shift and a mask widen it. Rows are taken up to ROWS at a time, so that their sums stay in registers.
 */
#ifndef BATON_CPU_LINEAR_H
#define BATON_CPU_LINEAR_H

#include "vectors.h"

#define COLUMNS (2 * LANES)
#if TILE_ROWS == 3
#define ROWS 6 /* 12 sums, 2 of a panel, 1 input: 15 of 16 registers */
#else
#define ROWS 8
#endif
enum {
    AHEAD = 1024, /* bytes of a panel asked for before they are used */
    PART = 4,     /* panels of a thread's turn; the most that rows are multiplied with at once */
    BLOCK = 192,  /* rows for which panels stay in the cache */
};

typedef struct {
    const float *x; /* [rows][inputs] */
    const uint16_t *panels;
    const float *bias; /* [outputs] or NULL */
    void *y;           /* [rows][outputs] */
    int64_t rows, inputs, outputs;
    int32_t y_is_bf16, adds; /* adds: to what is in y */
} product_t;

INLINE void put(const product_t *p, int64_t row, int64_t first, vecf v) {
    int64_t at = row * p->outputs + first;
    if (first + LANES <= p->outputs) {
        if (p->bias) v += load(p->bias, first, 0);
        if (p->adds) v += load(p->y, at, p->y_is_bf16);
        store(p->y, at, v, p->y_is_bf16);
        return;
    }
    for (int64_t j = 0; first + j < p->outputs; j++) {
        float sum = v[j] + (p->bias ? p->bias[first + j] : 0) + (p->adds ? load_one(p->y, at + j, p->y_is_bf16) : 0);
        store_one(p->y, at + j, sum, p->y_is_bf16);
    }
}

APART void put_all(const product_t *p, int64_t row, int64_t panel, const vecf *sums, int n, int c) {
    for (int k = 0; k < c; k++)
        for (int r = 0; r < n; r++)
            for (int half = 0; half < 2; half++)
                put(p, row + r, (panel + k) * COLUMNS + half * LANES, sums[(k * ROWS + r) * 2 + half]);
}

/* `n` rows from `row` on x `c` panels: few rows take several, since each sum waits for the one before. */
INLINE void tile(const product_t *p, int64_t row, int64_t panel, int n, int c) {
    const float *x = p->x + row * p->inputs;
    int64_t inputs = p->inputs, size = inputs * COLUMNS;
    const uint16_t *w = p->panels + panel * size;
    vecf low[PART][ROWS], high[PART][ROWS];
    for (int k = 0; k < c; k++)
        for (int r = 0; r < n; r++) low[k][r] = high[k][r] = splat(0);
#pragma GCC unroll 2
    for (int64_t i = 0; i < inputs; i++, w += COLUMNS)
        for (int k = 0; k < c; k++) {
            __builtin_prefetch((const char *)(w + k * size) + AHEAD);
            veci words = *(const veci *)(w + k * size);
            vecf a = (vecf)(words << 16), b = (vecf)(words & ~0xffff);
            for (int r = 0; r < n; r++) {
                vecf v = splat(x[r * inputs + i]);
                low[k][r] += v * a;
                high[k][r] += v * b;
            }
        }
    if (!p->bias && !p->y_is_bf16 && (panel + c) * COLUMNS <= p->outputs) { /* nearly always: straight to memory */
        for (int k = 0; k < c; k++)
            for (int r = 0; r < n; r++) {
                float *y = (float *)p->y + (row + r) * p->outputs + (panel + k) * COLUMNS;
                *(vecf *)y = low[k][r] + (p->adds ? *(vecf *)y : splat(0));
                *(vecf *)(y + LANES) = high[k][r] + (p->adds ? *(vecf *)(y + LANES) : splat(0));
            }
        return;
    }
    vecf sums[PART][ROWS][2];
    for (int k = 0; k < c; k++)
        for (int r = 0; r < n; r++) sums[k][r][0] = low[k][r], sums[k][r][1] = high[k][r];
    put_all(p, row, panel, sums[0][0], n, c);
}

typedef void tiler(const product_t *, int64_t, int64_t);
#define TILE(n, c) APART void tile_##n##_##c(const product_t *p, int64_t row, int64_t panel) { tile(p, row, panel, n, c); }
TILE(1, 4) TILE(2, 2) TILE(3, 2) TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
#if ROWS == 8
TILE(4, 2) TILE(7, 1) TILE(8, 1)
static const int panels_of[] = {4, 2, 2, 2, 1, 1, 1, 1}; /* [rows - 1]: at once */
static tiler *const tilers[] = {tile_1_4, tile_2_2, tile_3_2, tile_4_2, tile_5_1, tile_6_1, tile_7_1, tile_8_1};
#else
static const int panels_of[] = {4, 2, 2, 1, 1, 1};
static tiler *const tilers[] = {tile_1_4, tile_2_2, tile_3_2, tile_4_1, tile_5_1, tile_6_1};
#endif
static tiler *const single_tilers[] = {tile_1_1, tile_2_1, tile_3_1, tile_4_1};

/* Rows [row, end_row) x panels [first, end). */
static void strip(const product_t *p, int64_t row, int64_t end_row, int64_t first, int64_t end) {
    for (int64_t n; row < end_row; row += n) {
        int64_t tiles = (end_row - row + ROWS - 1) / ROWS, panel = first;
        n = (end_row - row + tiles - 1) / tiles; /* 8 rows are 4 + 4 rather than 6 + 2 */
        for (; panel + panels_of[n - 1] <= end; panel += panels_of[n - 1]) tilers[n - 1](p, row, panel);
        for (; panel < end; panel++) single_tilers[n - 1](p, row, panel);
    }
}

static void multiply(const product_t *p, int32_t num_threads) {
    int64_t num_panels = (p->outputs + COLUMNS - 1) / COLUMNS, num_parts = (num_panels + PART - 1) / PART;
    int64_t num_blocks = (p->rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1) schedule(static)
    for (int64_t i = 0; i < num_blocks * num_parts; i++) {
        int64_t row = i / num_parts * BLOCK, panel = i % num_parts * PART;
        int64_t end_row = row + BLOCK < p->rows ? row + BLOCK : p->rows;
        strip(p, row, end_row, panel, panel + PART < num_panels ? panel + PART : num_panels);
    }
}

/* See product_t; x is bfloat16 where y is. Returns 0, or 1 when there is no memory for a float32 copy of it. */
static int linear(const void *x, const uint16_t *panels, const float *bias, void *y, int64_t rows, int64_t inputs,
                  int64_t outputs, int32_t is_bf16, int32_t adds, int32_t num_threads) {
    float *widened = NULL;
    if (is_bf16) {
        int64_t size = rows * inputs, i = 0;
        widened = malloc(size * sizeof(float));
        if (!widened) return 1;
        for (; i + LANES <= size; i += LANES) store(widened, i, load(x, i, 1), 0);
        for (; i < size; i++) widened[i] = load_one(x, i, 1);
    }
    const product_t p = {widened ? widened : x, panels, bias, y, rows, inputs, outputs, is_bf16, adds};
    multiply(&p, num_threads);
    free(widened);
    return 0;
}

#endif
