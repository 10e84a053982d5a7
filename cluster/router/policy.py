"""Chooses the prefill and the decode worker of an attempt from load reports and prefix hits.

Invariant: the choice is a function of the arguments, the state of `rng` included; nothing is remembered. Pools larger
than `max_candidates` are sampled (power of d choices, Mitzenmacher 2001), with the best prefix holders added.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from cluster.router.load import Pools, WorkerLoad
from cluster.router.prefix_index import PrefixIndex
from workers.adapters.adapter import AdapterName
from workers.spec import Role

PREFIX_WEIGHT = 0.5  # a wholly cached prompt makes up for half of a decode worker's sequences or blocks in use

DRAFT_SLACK = 0.25  # of a draft worker's sequences: so many more than elsewhere are still followed at home

NEAR = 0.02  # decode costs are told apart in such steps: a block more or less must not send each prompt to one of two
NO_ROOM_COST = 2.0  # what a worker with room costs at most, waiting prompts aside


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest:
    """What the policy needs to know of an attempt."""

    num_tokens: int  # to read: prompt, and output of earlier attempts
    max_total_tokens: int  # prompt and all output of one choice
    num_choices: int = 1
    block_hashes: Sequence[int] = ()  # of the tokens to read
    wants_drafts: bool = True
    adapter: AdapterName | None = None  # that its workers must have
    excluded: frozenset[str] = frozenset()  # workers that failed this request; chosen only when there is no other


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    prefill_id: str | None  # None: the decode worker reads the prompt itself
    decode_id: str
    num_cached_tokens: int  # expected on the worker that reads the prompt
    draft_id: str | None = None  # None: nobody else drafts for the decode worker


class Policy:
    def __init__(self, *, disaggregate_over_tokens: int, max_candidates: int = 16) -> None:
        self._disaggregate_over_tokens = disaggregate_over_tokens
        self._max_candidates = max_candidates

    def tune(self, *, disaggregate_over_tokens: int) -> None:
        self._disaggregate_over_tokens = disaggregate_over_tokens

    def route(
        self, request: RouteRequest, pools: Pools, prefix: PrefixIndex, now_s: float, rng: Random
    ) -> Route | None:
        """None when no worker that could ever hold the request is there now."""
        route = self._read_and_write(request, pools, prefix, now_s, rng)
        if route is None or not request.wants_drafts or not pools.draft:
            return route
        return replace(route, draft_id=self._draft(pools, route.decode_id, rng).worker_id)

    def _draft(self, pools: Pools, decode_id: str, rng: Random) -> WorkerLoad:
        """The decode worker's own one, which hears of many of its sequences in one message and has met their prefixes,
        unless that follows far more sequences than another does."""
        num = self._max_candidates
        least = min(
            pools.draft if len(pools.draft) <= num else rng.sample(pools.draft, num),
            key=lambda load: load.num_sequences,
        )
        home = pools.draft_homes[decode_id]
        return home if home.num_sequences <= least.num_sequences + DRAFT_SLACK * home.max_sequences else least

    def _read_and_write(
        self, request: RouteRequest, pools: Pools, prefix: PrefixIndex, now_s: float, rng: Random
    ) -> Route | None:
        decodes = self._candidates(request, pools.decode, pools, prefix, rng, request.max_total_tokens)
        if not decodes:
            return None
        cached = {load.worker_id: _num_cached_tokens(request, load, prefix) for load in decodes}
        decode = _cheapest(
            decodes, lambda load: round(_decode_cost(request, load, cached[load.worker_id], now_s) / NEAR), rng
        )
        alone = Route(prefill_id=None, decode_id=decode.worker_id, num_cached_tokens=cached[decode.worker_id])
        short = request.num_tokens - alone.num_cached_tokens <= self._disaggregate_over_tokens
        if short or decode.role is Role.MIXED:
            return alone
        partners = pools.prefill_of.get(decode.family, ())
        prefills = self._candidates(request, partners, pools, prefix, rng, request.num_tokens + 1)
        if not prefills:
            return alone
        cached = {load.worker_id: _num_cached_tokens(request, load, prefix) for load in prefills}
        rate = _typical_rate(prefills)
        prefill = _cheapest(
            prefills, lambda load: _prefill_cost(request, load, cached[load.worker_id], rate, now_s), rng
        )
        return Route(
            prefill_id=prefill.worker_id,
            decode_id=decode.worker_id,
            num_cached_tokens=cached[prefill.worker_id],
        )

    def _candidates(
        self,
        request: RouteRequest,
        pool: Sequence[WorkerLoad],
        pools: Pools,
        prefix: PrefixIndex,
        rng: Random,
        min_tokens: int,
    ) -> list[WorkerLoad]:
        def usable(loads: Sequence[WorkerLoad]) -> list[WorkerLoad]:
            fitting = [load for load in loads if load.max_request_tokens >= min_tokens and load.has(request.adapter)]
            preferred = [load for load in fitting if load.worker_id not in request.excluded]
            return preferred or fitting

        if len(pool) <= self._max_candidates:
            return usable(pool)
        sample = {load.worker_id: load for load in rng.sample(pool, self._max_candidates // 2)}
        prefill = pool is not pools.decode
        for worker_id in prefix.holders(request.block_hashes, self._max_candidates):
            load = pools.by_id.get(worker_id)
            if load is None:
                continue
            if load.family == pool[0].family and load.role is Role.PREFILL if prefill else load.role.decodes:
                sample[worker_id] = load
        found = usable(list(sample.values()))
        lucky = any(load.worker_id not in request.excluded for load in found)
        return found if lucky else usable(pool)


def _num_cached_tokens(request: RouteRequest, load: WorkerLoad, prefix: PrefixIndex) -> int:
    """At least one token is always computed: its logits give the next one."""
    hit = prefix.match(load.worker_id, request.block_hashes) * load.block_size
    return min(hit, max(request.num_tokens - 1, 0))


def _cheapest(loads: Sequence[WorkerLoad], cost: Callable[[WorkerLoad], float], rng: Random) -> WorkerLoad:
    """Ties go by lot."""
    return min(loads, key=lambda load: (cost(load), rng.random()))


def _typical_rate(loads: Sequence[WorkerLoad]) -> float:
    """Stands in for workers that have not measured theirs; 1 when none has, so that tokens compare as seconds."""
    measured = [load.prefill_tokens_per_s for load in loads if load.prefill_tokens_per_s > 0.0]
    return sum(measured) / len(measured) if measured else 1.0


def _prefill_cost(request: RouteRequest, load: WorkerLoad, num_cached: int, typical_rate: float, now_s: float) -> float:
    """Seconds until the prompt is read: the queue's tokens and its own, at the measured rate."""
    rate = load.prefill_tokens_per_s or typical_rate
    return (load.num_queued_tokens(now_s) + request.num_tokens - num_cached) / rate


def _decode_cost(request: RouteRequest, load: WorkerLoad, num_cached: int, now_s: float) -> float:
    """How full the worker will be, in shares of its sequences, of its blocks and of its time for other prompts.

    Above 1 a share means that the request waits there or makes another one wait.
    """
    blocks = -(-(request.num_tokens - num_cached + request.num_choices) // load.block_size)
    used = load.num_blocks - load.num_free_blocks + load.num_sent_blocks
    sequence_share = (load.num_sequences + request.num_choices) / max(load.max_sequences, 1)
    block_share = (used + blocks) / max(load.num_blocks, 1)
    queued = load.num_queued_tokens(now_s)
    queue_share = queued / (queued + request.num_tokens)
    no_room = NO_ROOM_COST * ((sequence_share > 1.0) + (block_share > 1.0))
    bonus = PREFIX_WEIGHT * num_cached / request.num_tokens
    return sequence_share + block_share + queue_share + no_room - bonus
