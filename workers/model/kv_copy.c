/* Copies between a sequence's KV blocks and one flat payload.
 *
 * Called through ctypes, which gives the interpreter's lock away meanwhile, by workers.model.kv_copy.
 */
#include <stdint.h>
#include <string.h>

static void copy(char *block, char *flat, int64_t nbytes, int32_t to_blocks) {
    if (to_blocks)
        memcpy(block, flat, nbytes);
    else
        memcpy(flat, block, nbytes);
}

/* flat: `planes` parts (keys, values) of `nbytes` each. Of a plane of the cache, `plane_nbytes` apart, they are the
 * bytes from `skip` on of the blocks `ids`, laid one after the other. Blocks that lie side by side are one copy. */
void baton_copy_kv(char *cache, int64_t plane_nbytes, int64_t planes, int64_t block_nbytes, const int64_t *ids,
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
            copy(blocks + ids[i] * block_nbytes + from, flat, length, to_blocks);
            flat += length;
            left -= length;
            from = 0;
            i = run;
        }
    }
}
