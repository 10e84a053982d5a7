/* The draw of workers.engine.sampler in one pass: the first largest of logit + Gumbel noise, which is hashed from a
 * row's 64-bit key and the token's id.
 */
#include "vectors.h"

typedef uint32_t vecu __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define MOST_NOISE 23.0f /* -log(-log(1 - 2^-32)) is 22.2 */

/* Natural logarithm of normal x > 0, relative error under 4e-7: by the series of atanh, after taking out 2^e. */
INLINE vecf log_of(vecf x) {
    veci exponent = ((veci)x - 0x3f3504f3) >> 23; /* so that the rest is in [sqrt(1/2), sqrt(2)) */
    vecf m = (vecf)((veci)x - (exponent << 23)), s = (m - 1.0f) / (m + 1.0f), z = s * s;
    vecf series = splat(1.0f / 9);
    series = series * z + splat(1.0f / 7);
    series = series * z + splat(1.0f / 5);
    series = series * z + splat(1.0f / 3);
    series = series * z + splat(1.0f);
    return __builtin_convertvector(exponent, vecf) * 0.69314718f + 2.0f * s * series;
}

INLINE vecf noise(vecu id, uint32_t low, uint32_t high) {
    vecu bits = (id * 0x9E3779B1u) ^ low;
    bits ^= bits >> 16;
    bits *= 0x7FEB352Du; /* the constants of C. Wellons' lowbias32 */
    bits += high;
    bits ^= bits >> 15;
    bits *= 0x846CA68Bu;
    bits ^= bits >> 16;
    vecf u = (__builtin_convertvector((veci)(bits & 0x7FFFFFFFu), vecf) + 0.5f) * 0x1p-31f; /* in (0, 1] */
    u = choose(u > splat(1 - 0x1p-24f), splat(1 - 0x1p-24f), u);
    vecf rest = 1.0f - u, lost = 1.0f - rest; /* -log(1 - u), also where 1 - u rounds to 1 */
    vecf exponential = choose(lost == splat(0), u, -log_of(rest) * u / choose(lost == splat(0), splat(1), lost));
    return -log_of(exponential);
}

/* logits: [vocab], 0 at most; those under `floor` do not take part. Returns the token's id. */
static int64_t draw(const float *logits, int64_t vocab, uint32_t low, uint32_t high, float floor) {
    vecf best = splat(-INFINITY);
    veci at = (veci){0}, id = (veci){0};
    float reached = -INFINITY;
    for (int j = 0; j < LANES; j++) id[j] = j;
    for (int64_t i = 0; i < vocab; i += LANES, id += LANES) {
        float end[LANES];
        const float *from = logits + i;
        if (i + LANES > vocab) {
            for (int j = 0; j < LANES; j++) end[j] = i + j < vocab ? from[j] : -INFINITY;
            from = end;
        }
        vecf x = *(const vecf *)from;
        float most = max_of(x);
        if (!(most >= floor) || most + MOST_NOISE < reached) continue;
        vecf score = x + noise((vecu)id, low, high);
        veci better = (score > best) & (x >= splat(floor));
        best = choose(better, score, best);
        at = (better & id) | (~better & at);
        float now = max_of(best);
        reached = now > reached ? now : reached;
    }
    int winner = 0;
    for (int j = 1; j < LANES; j++)
        if (best[j] > best[winner] || (best[j] == best[winner] && at[j] < at[winner])) winner = j;
    return at[winner];
}

/* logits: [rows][vocab]; keys: [rows] low halves, then [rows] high halves; floors: [rows]; tokens: [rows]. */
void baton_draw(const float *logits, const uint32_t *keys, const float *floors, int64_t *tokens, int64_t rows,
                int64_t vocab, int32_t num_threads) {
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && rows > 1) schedule(dynamic, 1)
    for (int64_t r = 0; r < rows; r++) tokens[r] = draw(logits + r * vocab, vocab, keys[r], keys[rows + r], floors[r]);
}
