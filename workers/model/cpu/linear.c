/* The product of linear.h for workers.model.cpu.panels. */
#include "linear.h"

/* How many elements the panels of a weight have. */
int64_t baton_linear_size(int64_t outputs, int64_t inputs) {
    return (outputs + COLUMNS - 1) / COLUMNS * COLUMNS * inputs;
}

/* weight: [outputs][inputs] in bfloat16, contiguous. Outputs past the end are zero. */
void baton_linear_pack(const uint16_t *weight, uint16_t *panels, int64_t outputs, int64_t inputs,
                       int32_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1)
    for (int64_t first = 0; first < outputs; first += COLUMNS)
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t j = 0; j < COLUMNS; j++)
                panels[first * inputs + i * COLUMNS + j % LANES * 2 + j / LANES] =
                    first + j < outputs ? weight[(first + j) * inputs + i] : 0;
}

int baton_linear(const void *x, const uint16_t *panels, const float *bias, void *y, int64_t rows, int64_t inputs,
                 int64_t outputs, int32_t is_bf16, int32_t adds, int32_t num_threads) {
    return linear(x, panels, bias, y, rows, inputs, outputs, is_bf16, adds, num_threads);
}
