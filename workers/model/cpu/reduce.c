/* Sums over the ranks of one machine, see workers.parallel.shared_ranks: each writes its part into memory of its own,
 * which the others read.
 *
 * A segment is a page with `written`, how many parts the rank has written so far, and two slots of `slot_bytes`, used
 * by turns. A rank that has seen part n + 1 of another knows that the other has read part n of everybody: so part
 * n + 2 may go where part n was, and nothing is ever locked.
 */
#include <sched.h>
#include <time.h>

#include "vectors.h"

#define PAGE 4096
#define SPINS 2000  /* some 20 us: where every rank has a core, the others are there by then */
#define YIELDS 2000 /* then others may have the core, and then it is slept in between */
#define NAP_NS 50000
#define MAX_RANKS 64

typedef struct { /* `_Ranks` of reduce.py is the same */
    int64_t rank, size, slot_bytes;
    int64_t num_parts;          /* written so far, by every rank alike */
    volatile int32_t *abort;    /* not 0: nobody else will come any more */
    uint8_t *segments[MAX_RANKS];
} baton_ranks;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Until rank `other` has written part number `part`. Returns 0, or 1 when it is to be given up. */
static int wait_for(const baton_ranks *r, int64_t other, int64_t part) {
    const int64_t *written = (const int64_t *)r->segments[other];
    for (int64_t tries = 0; __atomic_load_n(written, __ATOMIC_ACQUIRE) < part; tries++) {
        if (*r->abort) return 1;
        if (tries < SPINS) relax();
        else if (tries < SPINS + YIELDS) sched_yield();
        else nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return 0;
}

static uint8_t *slot_of(const baton_ranks *r, int64_t rank, int64_t part) {
    return r->segments[rank] + PAGE + (part & 1) * r->slot_bytes;
}

/* Puts `bytes` where the others see them, and waits for theirs. */
static int exchange(baton_ranks *r, const void *data, int64_t bytes) {
    int64_t part = ++r->num_parts;
    memcpy(slot_of(r, r->rank, part), data, bytes);
    __atomic_store_n((int64_t *)r->segments[r->rank], part, __ATOMIC_RELEASE);
    for (int64_t other = 0; other < r->size; other++)
        if (other != r->rank && wait_for(r, other, part)) return 1;
    return 0;
}

/* data: `count` contiguous elements, the rank's; the sum of all ranks' afterwards, added in float32 in order of rank. */
int baton_all_reduce(baton_ranks *r, void *data, int64_t count, int32_t is_bf16) {
    int64_t size = is_bf16 ? 2 : 4, most = r->slot_bytes / size;
    for (int64_t from = 0; from < count; from += most) {
        int64_t now = count - from < most ? count - from : most;
        uint8_t *here = (uint8_t *)data + from * size;
        if (exchange(r, here, now * size)) return 1;
        const uint8_t *parts[MAX_RANKS];
        for (int64_t rank = 0; rank < r->size; rank++) parts[rank] = slot_of(r, rank, r->num_parts);
        int64_t whole = now - now % LANES;
        for (int64_t i = 0; i < whole; i += LANES) {
            vecf sum = load(parts[0], i, is_bf16);
            for (int64_t rank = 1; rank < r->size; rank++) sum += load(parts[rank], i, is_bf16);
            store(here, i, sum, is_bf16);
        }
        for (int64_t i = whole; i < now; i++) {
            float sum = load_one(parts[0], i, is_bf16);
            for (int64_t rank = 1; rank < r->size; rank++) sum += load_one(parts[rank], i, is_bf16);
            store_one(here, i, sum, is_bf16);
        }
    }
    return 0;
}

/* out: NULL on ranks that get nothing, else the `bytes` of each rank, one after the other. */
int baton_gather(baton_ranks *r, const void *data, int64_t bytes, void *out) {
    for (int64_t from = 0; from < bytes; from += r->slot_bytes) {
        int64_t now = bytes - from < r->slot_bytes ? bytes - from : r->slot_bytes;
        if (exchange(r, (const uint8_t *)data + from, now)) return 1;
        for (int64_t rank = 0; out && rank < r->size; rank++)
            memcpy((uint8_t *)out + rank * bytes + from, slot_of(r, rank, r->num_parts), now);
    }
    return 0;
}
