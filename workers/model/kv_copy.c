/* Copies between KV blocks, and between blocks and a flat payload.
 *
 * Called through ctypes, which gives the interpreter's lock away meanwhile, by workers.model.kv_copy.
 */
#include <stdint.h>
#include <string.h>

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
                memcpy(block, flat, length);
            else
                memcpy(flat, block, length);
            flat += length;
            left -= length;
            from = 0;
            i = run;
        }
    }
}

/* The same bytes from blocks of one cache to blocks of another, whose planes may be longer or shorter. */
void baton_copy_blocks(const char *source, int64_t source_plane_nbytes, const int64_t *source_ids, char *target,
                       int64_t target_plane_nbytes, const int64_t *target_ids, int64_t planes, int64_t block_nbytes,
                       int64_t skip, int64_t nbytes) {
    for (int64_t plane = 0; plane < planes; plane++) {
        int64_t left = nbytes, from = skip;
        for (int64_t i = 0; left > 0; i++) {
            int64_t length = block_nbytes - from < left ? block_nbytes - from : left;
            memcpy(target + plane * target_plane_nbytes + target_ids[i] * block_nbytes + from,
                   source + plane * source_plane_nbytes + source_ids[i] * block_nbytes + from, length);
            left -= length;
            from = 0;
        }
    }
}
