"""Ragged paged attention in Triton: chunks of prompts, single tokens and trees of drafts in one launch.

Three kernels, all with grids that depend on capacities alone, so that a CUDA graph may replay them:

    plan     once a step and kind of layer: cuts the queries into tiles, and the (KV head, tile, keys) that must be
             looked at into as many equal shares as programs run at once (stream-K, as LeanAttention, arXiv 2405.10480)
    attend   each program goes through its share; a tile that lies in one share is written, of others what a share saw
             is kept apart
    merge    puts those together

A tile has BLOCK_M rows: BLOCK_Q = BLOCK_M // GROUP queries with all GROUP heads that share a KV head, so that every key
is read once for all of them. A unit of work is one tile's product with BLOCK_N keys. Softmax is in base 2 and float32.
"""

import triton
import triton.language as tl

RECORD = tl.constexpr(8)  # int32 of a tile: see `plan`
LOG2_E = tl.constexpr(1.4426950408889634)
NONE = tl.constexpr(float("-inf"))


# Not specialized: numbers that differ from step to step, and parts of one tensor. A kernel that is compiled anew where
# one of them is 1, or a multiple of 16, would be waited for in the middle of an answer.
@triton.jit(
    do_not_specialize=["num_chunks", "max_tiles", "num_programs", "window", "num_halvings"],
    do_not_specialize_on_alignment=["query_start", "num_context", "is_tree"],
)
def plan(
    query_start,  # [num_chunks + 1]
    num_context,  # [num_chunks]
    is_tree,  # [num_chunks]
    units,  # [max_tiles + 1] out: of all tiles before each; the last: of all
    tiles,  # [max_tiles, RECORD] out: first row, rows, first position, context, chunk, first key block
    firsts,  # [num_programs] out: the tile in which each share begins
    num_chunks,
    max_tiles,
    num_programs,
    num_kv_heads,
    window,  # 0: all keys are seen
    num_halvings,  # 2 ** num_halvings > num_chunks, max_tiles
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILES: tl.constexpr,  # a power of 2, looked at together
):
    lanes = tl.arange(0, TILES)
    total = tl.zeros((), tl.int32)
    for begin in range(0, max_tiles, TILES):
        tile = begin + lanes
        chunk = _last_at_most(query_start, tile, num_chunks, num_halvings, BLOCK_Q)
        start = tl.load(query_start + chunk)
        num_rows = tl.load(query_start + chunk + 1) - start
        row = (tile - start // BLOCK_Q - chunk) * BLOCK_Q
        context = tl.load(num_context + chunk)
        is_used = (tile < max_tiles) & (row < num_rows)
        rows = tl.where(is_used, tl.minimum(num_rows - row, BLOCK_Q), 0)
        # the rows of a tree are at least as deep as its root
        oldest = context + 1 + tl.where(tl.load(is_tree + chunk) != 0, 0, row) - window
        low = tl.where(window > 0, tl.maximum(oldest, 0) // BLOCK_N, 0)
        high = (context + row + rows + BLOCK_N - 1) // BLOCK_N
        count = tl.where(is_used, high - low, 0)
        ends = tl.cumsum(count, 0)
        is_there = tile < max_tiles
        tl.store(units + tile, total + ends - count, mask=is_there)
        record = tiles + tile * RECORD
        tl.store(record, start + row, mask=is_there)
        tl.store(record + 1, rows, mask=is_there)
        tl.store(record + 2, context + row, mask=is_there)
        tl.store(record + 3, context, mask=is_there)
        tl.store(record + 4, chunk, mask=is_there)
        tl.store(record + 5, low, mask=is_there)
        total += tl.sum(count, 0)
    tl.store(units + max_tiles, total)
    tl.debug_barrier()
    for begin in range(0, num_programs, TILES):
        program = begin + lanes
        units_of_all = total.to(tl.int64) * num_kv_heads
        shares = tl.minimum(units_of_all, num_programs)
        unit = (program * units_of_all // tl.maximum(shares, 1) % tl.maximum(total, 1)).to(tl.int32)
        low = tl.zeros((TILES,), tl.int32)
        high = low + max_tiles
        for _ in range(num_halvings):  # the last tile whose units begin at `unit` or before: `low`
            middle = (low + high) // 2
            is_before = tl.load(units + middle) <= unit
            low = tl.where(is_before & (middle < high), middle, low)
            high = tl.where(is_before, high, middle)
        tl.store(firsts + program, low, mask=program < num_programs)


@triton.jit
def _last_at_most(query_start, tile, num_chunks, num_halvings, BLOCK_Q: tl.constexpr):
    """Chunk c's tiles begin at query_start[c] // BLOCK_Q + c: the last chunk that begins at `tile` or before."""
    low = tile * 0
    high = low + num_chunks
    for _ in range(num_halvings):
        middle = (low + high) // 2
        is_before = tl.load(query_start + middle) // BLOCK_Q + middle <= tile
        low = tl.where(is_before & (middle < high), middle, low)
        high = tl.where(is_before, high, middle)
    return low


@triton.jit(
    do_not_specialize=["max_tiles", "window"],
    do_not_specialize_on_alignment=["tables", "table_start", "seen", "positions"],
)
def attend(
    query,  # [T, num_heads, head_dim]
    output,
    keys,  # [num_blocks, block_size, num_kv_heads, head_dim]
    values,
    tables,  # of all chunks, one after the other
    table_start,  # [num_chunks]
    seen,  # [T] int64, see `PagedMeta.seen_rows`; with trees alone
    positions,  # [T] int64; the same
    k_scales,  # [num_kv_heads] float32: of what FP8 keys are to be multiplied by; with FP8 alone
    v_scales,
    sinks,  # [num_heads]; where there are any
    units,
    tiles,
    firsts,
    partial_sums,  # [2 * num_programs, BLOCK_M, DIM] float32
    partial_stats,  # [2 * num_programs, 2, BLOCK_M] float32: largest score, sum of weights
    max_tiles,
    num_kv_heads,
    scale,
    softcap,
    window,
    query_stride,
    output_stride,
    key_block_stride,
    key_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,  # HEAD_DIM up to a power of 2
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_TREES: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    num_units = tl.load(units + max_tiles)
    total = num_units.to(tl.int64) * num_kv_heads
    shares = tl.minimum(total, tl.num_programs(0))  # each has a unit at least
    at = tl.minimum(program, shares) * total // shares
    end = tl.minimum(program + 1, shares) * total // shares
    tile = tl.load(firsts + program)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    is_dim = d < HEAD_DIM
    while at < end:
        head = (at // num_units).to(tl.int32)
        unit = (at - head * num_units.to(tl.int64)).to(tl.int32)
        tile = tl.where(unit == 0, 0, tile)
        first_unit, next_unit = tl.load(units + tile), tl.load(units + tile + 1)
        while next_unit <= unit:  # tiles without rows
            tile += 1
            first_unit, next_unit = next_unit, tl.load(units + tile + 1)
        count = next_unit - first_unit
        first = unit - first_unit
        last = tl.minimum(count, first + (end - at).to(tl.int32))
        record = tiles + tile * RECORD
        row, num_rows, position = tl.load(record), tl.load(record + 1), tl.load(record + 2)
        context, chunk, low = tl.load(record + 3), tl.load(record + 4), tl.load(record + 5)
        table = tables + tl.load(table_start + chunk)

        rows = m // GROUP
        is_row = rows < num_rows
        heads = head * GROUP + m % GROUP
        places = (row + rows).to(tl.int64) * query_stride + heads * HEAD_DIM
        q = tl.load(query + places[:, None] + d[None, :], mask=is_row[:, None] & is_dim[None, :], other=0.0)
        own = position + rows  # of the row's own key
        bits = tl.zeros((BLOCK_M,), tl.int64)
        depth = own
        if HAS_TREES:
            bits = tl.load(seen + row + rows, mask=is_row, other=0)
            depth = tl.load(positions + row + rows, mask=is_row, other=0).to(tl.int32)
        factor = scale
        v_factor = 1.0
        if HAS_SCALES:
            factor = scale * tl.load(k_scales + head)
            v_factor = tl.load(v_scales + head)
        largest = tl.full((BLOCK_M,), NONE, tl.float32)
        weight = tl.zeros((BLOCK_M,), tl.float32)
        sums = tl.zeros((BLOCK_M, DIM), tl.float32)
        # Up to here every row sees every key.
        clear = last
        if HAS_WINDOW or HAS_TREES:
            clear = first
        else:
            clear = tl.minimum(last, tl.maximum(first, (position + 1) // BLOCK_N - low))
        for block in range(first, clear):
            largest, weight, sums = _block(
                q, largest, weight, sums, keys, values, table, (low + block) * BLOCK_N,
                position + num_rows, head, own, depth, bits, context, factor, softcap, window,
                key_block_stride, key_stride, d, is_dim,
                False, HEAD_DIM, BLOCK_N, BLOCK_SIZE, HAS_CAP, HAS_WINDOW, HAS_TREES, PRECISION,
            )  # fmt: skip
        for block in range(clear, last):
            largest, weight, sums = _block(
                q, largest, weight, sums, keys, values, table, (low + block) * BLOCK_N,
                position + num_rows, head, own, depth, bits, context, factor, softcap, window,
                key_block_stride, key_stride, d, is_dim,
                True, HEAD_DIM, BLOCK_N, BLOCK_SIZE, HAS_CAP, HAS_WINDOW, HAS_TREES, PRECISION,
            )  # fmt: skip
        sums *= v_factor
        if (first == 0) & (last == count):
            if HAS_SINKS:
                sums, weight = _with_sinks(sums, largest, weight, sinks, heads, is_row)
            places = (row + rows).to(tl.int64) * output_stride + heads * HEAD_DIM
            found = sums / tl.where(is_row, weight, 1.0)[:, None]
            where = output + places[:, None] + d[None, :]
            tl.store(where, found.to(output.dtype.element_ty), mask=is_row[:, None] & is_dim[None, :])
        else:
            slot = program * 2 + tl.where(first == 0, 1, 0)
            tl.store(partial_sums + slot * BLOCK_M * DIM + m[:, None] * DIM + d[None, :], sums)
            tl.store(partial_stats + slot * 2 * BLOCK_M + m, largest)
            tl.store(partial_stats + slot * 2 * BLOCK_M + BLOCK_M + m, weight)
        at += last - first


@triton.jit
def _block(
    q, largest, weight, sums, keys, values, table, begin, end, head, own, depth, bits, context, factor, softcap, window,
    block_stride, key_stride, d, is_dim,
    IS_MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_TREES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile with BLOCK_N keys from `begin` on, of which those before `end` are there."""
    key = begin + tl.arange(0, BLOCK_N)
    is_key = key < end
    if BLOCK_SIZE % BLOCK_N == 0:
        blocks = tl.load(table + begin // BLOCK_SIZE).to(tl.int64) + tl.zeros((BLOCK_N,), tl.int64)
    elif IS_MASKED:
        blocks = tl.load(table + key // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
    else:
        blocks = tl.load(table + key // BLOCK_SIZE).to(tl.int64)
    places = blocks * block_stride + (key % BLOCK_SIZE) * key_stride + head * HEAD_DIM
    is_there = (is_key if IS_MASKED else key >= 0)[:, None] & is_dim[None, :]
    k = tl.load(keys + places[:, None] + d[None, :], mask=is_there, other=0.0).to(q.dtype)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * factor
    if HAS_CAP:
        turned = tl.exp2(scores * (2.0 * LOG2_E / softcap))
        scores = softcap * (1.0 - 2.0 / (turned + 1.0))
    scores = scores * LOG2_E
    if IS_MASKED:
        is_seen = key[None, :] <= own[:, None]
        if HAS_WINDOW:
            is_seen = is_seen & (key[None, :] > depth[:, None] - window)
        if HAS_TREES:
            place = key - context
            is_own = ((bits[:, None] >> tl.maximum(place, 0)[None, :].to(tl.int64)) & 1) == 1
            is_before = place[None, :] < 0
            if HAS_WINDOW:
                is_before = is_before & (key[None, :] > depth[:, None] - window)
            in_tree = is_before | ((place[None, :] >= 0) & is_own)
            is_seen = tl.where(bits[:, None] != 0, in_tree, is_seen)
        scores = tl.where(is_seen, scores, NONE)
    now = tl.maximum(largest, tl.max(scores, 1))
    base = tl.where(now == NONE, 0.0, now)  # a row that sees nothing here
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(largest - base)
    v = tl.load(values + places[:, None] + d[None, :], mask=is_there, other=0.0).to(q.dtype)
    sums = tl.dot(weights.to(q.dtype), v, sums * shrink[:, None], input_precision=PRECISION)
    return now, weight * shrink + tl.sum(weights, 1), sums


@triton.jit
def _with_sinks(sums, largest, weight, sinks, heads, is_row):
    """A sink takes part in the softmax and carries no value."""
    sink = tl.load(sinks + heads, mask=is_row, other=0.0).to(tl.float32) * LOG2_E
    top = tl.maximum(largest, sink)
    shrink = tl.exp2(largest - top)
    return sums * shrink[:, None], weight * shrink + tl.exp2(sink - top)


@triton.jit(do_not_specialize=["max_tiles", "num_programs"])
def merge(
    output,
    sinks,
    units,
    tiles,
    partial_sums,
    partial_stats,
    max_tiles,
    num_kv_heads,
    num_programs,
    output_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """For one tile and KV head: nothing, where one share had all of it."""
    tile, head = tl.program_id(0), tl.program_id(1)
    num_units = tl.load(units + max_tiles).to(tl.int64)
    total = num_units * num_kv_heads
    first_unit, next_unit = tl.load(units + tile), tl.load(units + tile + 1)
    if next_unit == first_unit:
        return
    # Unit u is in the last share p with p * total // shares <= u.
    shares = tl.minimum(total, num_programs)
    first = ((head * num_units + first_unit + 1) * shares - 1) // total
    last = ((head * num_units + next_unit) * shares - 1) // total
    if first == last:
        return
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    largest = tl.full((BLOCK_M,), NONE, tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    sums = tl.zeros((BLOCK_M, DIM), tl.float32)
    for program in range(first, last + 1):
        slot = program * 2 + tl.where(program == first, 1, 0)
        theirs = tl.load(partial_stats + slot * 2 * BLOCK_M + m)
        now = tl.maximum(largest, theirs)
        base = tl.where(now == NONE, 0.0, now)
        mine, other = tl.exp2(largest - base), tl.exp2(theirs - base)
        weight = weight * mine + tl.load(partial_stats + slot * 2 * BLOCK_M + BLOCK_M + m) * other
        theirs_sums = tl.load(partial_sums + slot * BLOCK_M * DIM + m[:, None] * DIM + d[None, :])
        sums = sums * mine[:, None] + theirs_sums * other[:, None]
        largest = now
    row, num_rows = tl.load(tiles + tile * RECORD), tl.load(tiles + tile * RECORD + 1)
    rows = m // GROUP
    is_row = rows < num_rows
    heads = head * GROUP + m % GROUP
    if HAS_SINKS:
        sums, weight = _with_sinks(sums, largest, weight, sinks, heads, is_row)
    found = sums / tl.where(is_row, weight, 1.0)[:, None]
    places = (row + rows).to(tl.int64) * output_stride + heads * HEAD_DIM
    is_out = is_row[:, None] & (d < HEAD_DIM)[None, :]
    tl.store(output + places[:, None] + d[None, :], found.to(output.dtype.element_ty), mask=is_out)
