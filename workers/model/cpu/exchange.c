/* All-gathers among the ranks of one machine, begun at once and waited for where a part is needed; see exchange.py.
 *
 * Each rank writes its parts, one after the other, as a stream of bytes into a ring in memory of its own, which the
 * others read. All begin the same gathers in the same order, so that a gather's part is at the same place of every
 * stream. A segment is a page with how much its rank has written so far, and how much it has read of each other
 * rank's stream; then the ring. A byte is overwritten when all others have read it.
 *
 * Whoever waits, for a part or for room, reads all that has come meanwhile: so no two wait for each other.
 */
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define PAGE 4096
#define SPINS 2000  /* some 20 us: where every rank has a core, the others are there by then */
#define YIELDS 2000 /* then others may have the core, and then it is slept in between */
#define NAP_NS 50000
#define MAX_RANKS 64
#define MAX_OPEN 512 /* gathers that are begun and not whole */

typedef struct {
    uint8_t *out;   /* [ranks, bytes]; this rank's part is there already, and sent from there */
    int64_t at;     /* in every stream */
    int64_t bytes;  /* of a part */
} gather;

typedef struct { /* the page of a segment */
    int64_t written;
    int64_t read[MAX_RANKS];
} head;

typedef struct { /* `_Ranks` of exchange.py is the same */
    int64_t rank, size, ring_bytes;
    int64_t num_begun, num_whole; /* gathers; those from num_whole on are open */
    int64_t end;                  /* of the streams, when all that is begun is written */
    int64_t written, read[MAX_RANKS];
    volatile int32_t *abort;      /* not 0: nobody else will come any more */
    uint8_t *segments[MAX_RANKS];
    gather open[MAX_OPEN];
} baton_ranks;

static head *head_of(const baton_ranks *r, int64_t rank) { return (head *)r->segments[rank]; }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Copies between a ring and flat memory; `at` is the place in the stream. */
static void copy(const baton_ranks *r, int64_t rank, int64_t at, uint8_t *flat, int64_t bytes, int to_ring) {
    uint8_t *ring = r->segments[rank] + PAGE;
    for (int64_t done = 0; done < bytes;) {
        int64_t place = (at + done) % r->ring_bytes, now = least(bytes - done, r->ring_bytes - place);
        if (to_ring) memcpy(ring + place, flat + done, now);
        else memcpy(flat + done, ring + place, now);
        done += now;
    }
}

/* Moves what is open in [from, to) of `rank`'s stream: into its ring, or out of it to where it is gathered. */
static void move(const baton_ranks *r, int64_t rank, int64_t from, int64_t to, int to_ring) {
    for (int64_t number = r->num_whole; number < r->num_begun && from < to; number++) {
        const gather *g = &r->open[number % MAX_OPEN];
        int64_t end = least(to, g->at + g->bytes);
        if (end <= from) continue;
        copy(r, rank, from, g->out + rank * g->bytes + (from - g->at), end - from, to_ring);
        from = end;
    }
}

static void write_mine(baton_ranks *r) {
    int64_t room = r->ring_bytes;
    for (int64_t other = 0; other < r->size && r->written < r->end; other++) {
        if (other == r->rank) continue;
        int64_t read = __atomic_load_n(&head_of(r, other)->read[r->rank], __ATOMIC_ACQUIRE);
        room = least(room, r->ring_bytes - (r->written - read));
    }
    int64_t to = least(r->end, r->written + room);
    if (to <= r->written) return;
    move(r, r->rank, r->written, to, 1);
    r->written = to;
    __atomic_store_n(&head_of(r, r->rank)->written, to, __ATOMIC_RELEASE);
}

static void read_theirs(baton_ranks *r) {
    for (int64_t other = 0; other < r->size; other++) {
        if (other == r->rank || r->read[other] == r->end) continue;
        int64_t to = least(r->end, __atomic_load_n(&head_of(r, other)->written, __ATOMIC_ACQUIRE));
        if (to <= r->read[other]) continue;
        move(r, other, r->read[other], to, 0);
        r->read[other] = to;
        __atomic_store_n(&head_of(r, r->rank)->read[other], to, __ATOMIC_RELEASE);
    }
}

/* Whether gather `number` is there from the first `num_ranks`; if those are all, this rank's part is on its way too. */
static int is_there(const baton_ranks *r, int64_t number, int64_t num_ranks) {
    if (number < r->num_whole) return 1;
    const gather *g = &r->open[number % MAX_OPEN];
    if (num_ranks == r->size && r->written < g->at + g->bytes) return 0;
    for (int64_t other = 0; other < num_ranks; other++)
        if (other != r->rank && r->read[other] < g->at + g->bytes) return 0;
    return 1;
}

/* Does what can be done without waiting; whether gather `number` is there then, as above. */
int baton_exchange_look(baton_ranks *r, int64_t number, int64_t num_ranks) {
    read_theirs(r);
    write_mine(r);
    while (r->num_whole < r->num_begun && is_there(r, r->num_whole, r->size)) r->num_whole++;
    return is_there(r, number, num_ranks);
}

/* Until it is. Returns 0, or 1 when it is to be given up. */
int baton_exchange_wait(baton_ranks *r, int64_t number, int64_t num_ranks) {
    for (int64_t tries = 0; !baton_exchange_look(r, number, num_ranks); tries++) {
        if (*r->abort) return 1;
        if (tries >= SPINS + YIELDS) nanosleep(&(struct timespec){0, NAP_NS}, NULL);
        else if (tries >= SPINS) sched_yield();
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#endif
    }
    return 0;
}

/* out: [ranks, bytes], where this rank's part is already; it stays there until the gather is whole. Returns as above. */
int baton_exchange_begin(baton_ranks *r, uint8_t *out, int64_t bytes) {
    if (r->num_begun - r->num_whole == MAX_OPEN && baton_exchange_wait(r, r->num_whole, r->size)) return 1;
    r->open[r->num_begun % MAX_OPEN] = (gather){out, r->end, bytes};
    r->num_begun++;
    r->end += bytes;
    baton_exchange_look(r, 0, 0);
    return *r->abort != 0;
}
