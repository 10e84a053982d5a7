/* Copies between KV blocks, and between blocks and a flat payload.
 *
 * Called through ctypes, which gives the interpreter's lock away meanwhile, by workers.model.cpu.kv_copy.
 */
#include <stdint.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

enum { LINE = 64, LARGE = 256 << 10 };

/* With `past_cache` the target is not read into the cache before it is overwritten: a third less traffic, for what is
 * too large to be found there later. */
static void copy(char *target, const char *source, int64_t nbytes, int past_cache) {
#if defined(__AVX__)
    if (past_cache && (uintptr_t)target % LINE == 0) {
        int64_t whole = nbytes / LINE * LINE;
        for (int64_t i = 0; i < whole; i += LINE) {
#if defined(__AVX512F__)
            _mm512_stream_si512((void *)(target + i), _mm512_loadu_si512(source + i));
#else
            _mm256_stream_si256((__m256i *)(target + i), _mm256_loadu_si256((const __m256i *)(source + i)));
            _mm256_stream_si256((__m256i *)(target + i + 32), _mm256_loadu_si256((const __m256i *)(source + i + 32)));
#endif
        }
        target += whole;
        source += whole;
        nbytes -= whole;
    }
#endif
    (void)past_cache;
    memcpy(target, source, nbytes);
}

static void settle(void) { /* others see what went past the cache before they hear of it */
#if defined(__AVX__)
    _mm_sfence();
#endif
}

/* flat: `planes` parts (keys, values) of `nbytes` each. Of a plane of the cache, `plane_nbytes` apart, they are the
 * bytes from `skip` on of the blocks `ids`, laid one after the other. Blocks that lie side by side are one copy. */
void baton_copy_flat(char *cache, int64_t plane_nbytes, int64_t planes, int64_t block_nbytes, const int64_t *ids,
                     int64_t skip, int64_t nbytes, char *flat, int32_t to_blocks) {
    for (int64_t plane = 0; plane < planes; plane++) {
        char *blocks = cache + plane * plane_nbytes;
        int64_t left = nbytes, from = skip;
        for (int64_t i = 0; left > 0;) {
            int64_t run = i + 1;
            while ((run - i) * block_nbytes - from < left && ids[run] == ids[run - 1] + 1)
                run++;
            int64_t length = (run - i) * block_nbytes - from;
            if (length > left)
                length = left;
            char *block = blocks + ids[i] * block_nbytes + from;
            if (to_blocks)
                copy(block, flat, length, planes * nbytes >= LARGE);
            else
                memcpy(flat, block, length);
            flat += length;
            left -= length;
            from = 0;
            i = run;
        }
    }
    settle();
}

/* The same bytes from blocks of one cache to blocks of another, whose planes may be longer or shorter. */
void baton_copy_blocks(const char *source, int64_t source_plane_nbytes, const int64_t *source_ids, char *target,
                       int64_t target_plane_nbytes, const int64_t *target_ids, int64_t planes, int64_t block_nbytes,
                       int64_t skip, int64_t nbytes) {
    for (int64_t plane = 0; plane < planes; plane++) {
        int64_t left = nbytes, from = skip;
        for (int64_t i = 0; left > 0; i++) {
            int64_t length = block_nbytes - from < left ? block_nbytes - from : left;
            copy(target + plane * target_plane_nbytes + target_ids[i] * block_nbytes + from,
                 source + plane * source_plane_nbytes + source_ids[i] * block_nbytes + from, length,
                 planes * nbytes >= LARGE);
            left -= length;
            from = 0;
        }
    }
    settle();
}

/* As `baton_copy_flat`, of a part of each row alone (some of its heads): rows of `row_nbytes` of which `part_nbytes`
 * from `cache` on are meant, `rows_per_block` to a block; rows [first, first + count) counted from the block `ids[0]`.
 * flat: count * part_nbytes for each plane. */
void baton_copy_flat_part(char *cache, int64_t plane_nbytes, int64_t planes, int64_t rows_per_block, int64_t row_nbytes,
                          int64_t part_nbytes, const int64_t *ids, int64_t first, int64_t count, char *flat,
                          int32_t to_blocks) {
    for (int64_t plane = 0; plane < planes; plane++) {
        for (int64_t row = first; row < first + count; row++, flat += part_nbytes) {
            int64_t at = ids[row / rows_per_block] * rows_per_block + row % rows_per_block;
            char *part = cache + plane * plane_nbytes + at * row_nbytes;
            if (to_blocks)
                memcpy(part, flat, part_nbytes);
            else
                memcpy(flat, part, part_nbytes);
        }
    }
}

/* The same from blocks of one cache to blocks of another, whose rows may be longer or shorter. */
void baton_copy_blocks_part(const char *source, int64_t source_plane_nbytes, int64_t source_row_nbytes,
                            const int64_t *source_ids, char *target, int64_t target_plane_nbytes,
                            int64_t target_row_nbytes, const int64_t *target_ids, int64_t planes,
                            int64_t rows_per_block, int64_t part_nbytes, int64_t first, int64_t count) {
    for (int64_t plane = 0; plane < planes; plane++) {
        for (int64_t row = first; row < first + count; row++) {
            int64_t block = row / rows_per_block, offset = row % rows_per_block;
            memcpy(target + plane * target_plane_nbytes + (target_ids[block] * rows_per_block + offset) * target_row_nbytes,
                   source + plane * source_plane_nbytes + (source_ids[block] * rows_per_block + offset) * source_row_nbytes,
                   part_nbytes);
        }
    }
}
