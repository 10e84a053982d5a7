"""The routing policy on plain loads."""

from collections import Counter
from dataclasses import replace
from random import Random

from cluster.router.load import Pools, WorkerLoad
from cluster.router.policy import Policy, Route, RouteRequest
from cluster.router.prefix_index import PrefixIndex
from workers.engine.block_hash import block_hashes
from workers.spec import Role

PROMPT = list(range(160))
HASHES = block_hashes(PROMPT, 16)


def _load(worker_id: str, role: Role, **counts: float) -> WorkerLoad:
    values: dict[str, float] = {"num_free_blocks": 1000, "num_blocks": 1000, "max_model_len": 8192} | counts
    return WorkerLoad(worker_id=worker_id, role=role, block_size=16, max_sequences=64, **values)  # type: ignore[arg-type]


def _request(num_tokens: int = 160, *, excluded: tuple[str, ...] = (), max_total: int = 200) -> RouteRequest:
    return RouteRequest(
        num_tokens=num_tokens,
        max_total_tokens=max_total,
        block_hashes=HASHES[: num_tokens // 16],
        excluded=frozenset(excluded),
    )


def _route(
    *loads: WorkerLoad,
    request: RouteRequest | None = None,
    index: PrefixIndex | None = None,
    now_s: float = 0.0,
    seed: int = 0,
) -> Route | None:
    policy = Policy(disaggregate_over_tokens=64)
    return policy.route(request or _request(), Pools.of(loads), index or PrefixIndex(), now_s, Random(seed))


def _ids(route: Route | None) -> tuple[str | None, str]:
    assert route is not None
    return route.prefill_id, route.decode_id


def test_the_shortest_prefill_queue_in_seconds_wins() -> None:
    slow = _load("p0", Role.PREFILL, num_waiting_tokens=100, prefill_tokens_per_s=100.0)
    fast = _load("p1", Role.PREFILL, num_waiting_tokens=1000, prefill_tokens_per_s=10_000.0)
    assert _ids(_route(slow, fast, _load("d0", Role.DECODE))) == ("p1", "d0")


def test_what_was_sent_since_the_report_counts_and_what_was_read_since_does_not() -> None:
    first = _load("p0", Role.PREFILL, prefill_tokens_per_s=100.0)
    second = _load("p1", Role.PREFILL, num_waiting_tokens=50, prefill_tokens_per_s=100.0)
    decode = _load("d0", Role.DECODE)
    assert _ids(_route(first, second, decode)) == ("p0", "d0")
    first.sent(num_tokens=200, num_sequences=0, num_blocks=0)
    assert _ids(_route(first, second, decode)) == ("p1", "d0")
    second.num_waiting_tokens = 300
    second.reported_s, first.reported_s = 0.0, 2.0
    assert _ids(_route(first, second, decode, now_s=2.5)) == ("p1", "d0")


def test_a_worker_without_a_measured_rate_counts_as_a_typical_one() -> None:
    known = _load("p0", Role.PREFILL, num_waiting_tokens=100, prefill_tokens_per_s=10_000.0)
    new = _load("p1", Role.PREFILL)
    assert _ids(_route(known, new, _load("d0", Role.DECODE))) == ("p1", "d0")


def test_a_prefix_hit_saves_prefill_time() -> None:
    index = PrefixIndex()
    index.update("p1", added=HASHES[:8], removed=[])
    busy = _load("p1", Role.PREFILL, num_waiting_tokens=100, prefill_tokens_per_s=1000.0)
    idle = _load("p0", Role.PREFILL, prefill_tokens_per_s=1000.0)
    route = _route(idle, busy, _load("d0", Role.DECODE), index=index)
    assert route == Route(prefill_id="p1", decode_id="d0", num_cached_tokens=128)


def test_decode_is_chosen_by_sequences_and_blocks() -> None:
    prefill = _load("p0", Role.PREFILL)
    crowded = _load("d0", Role.DECODE, num_running=30)
    full = _load("d1", Role.DECODE, num_free_blocks=100)
    free = _load("d2", Role.DECODE, num_running=10)
    assert _ids(_route(prefill, crowded, full, free)) == ("p0", "d2")


def test_a_decode_worker_without_room_is_the_last_choice() -> None:
    no_blocks = _load("d0", Role.DECODE, num_free_blocks=5)
    no_slots = _load("d1", Role.DECODE, num_running=64)
    busy = _load("d2", Role.DECODE, num_running=60, num_free_blocks=50)
    assert _ids(_route(no_blocks, no_slots, busy)) == (None, "d2")


def test_sequences_still_at_prefill_count_for_their_decode_worker() -> None:
    promised = _load("d0", Role.DECODE, num_outstanding=20)
    running = _load("d1", Role.DECODE, num_running=10)
    assert _ids(_route(promised, running)) == (None, "d1")


def test_a_prefix_hit_is_a_bonus_for_decode_and_may_spare_prefill() -> None:
    index = PrefixIndex()
    index.update("d1", added=HASHES[:9], removed=[])
    loads = (_load("p0", Role.PREFILL), _load("d0", Role.DECODE), _load("d1", Role.DECODE, num_running=4))
    route = _route(*loads, index=index)
    assert route == Route(prefill_id=None, decode_id="d1", num_cached_tokens=144)


def test_the_threshold_is_on_uncached_tokens_and_included() -> None:
    loads = (_load("p0", Role.PREFILL), _load("d0", Role.DECODE))
    assert _ids(_route(*loads, request=_request(64))) == (None, "d0")
    assert _ids(_route(*loads, request=_request(65))) == ("p0", "d0")


def test_one_token_at_least_is_computed() -> None:
    index = PrefixIndex()
    index.update("d0", added=HASHES, removed=[])
    route = _route(_load("d0", Role.DECODE), index=index)
    assert route is not None
    assert route.num_cached_tokens == 159


def test_mixed_workers_serve_both_phases() -> None:
    assert _ids(_route(_load("m0", Role.MIXED, num_running=5), _load("m1", Role.MIXED))) == (None, "m1")
    reading = _load("m0", Role.MIXED, num_waiting_tokens=5000)
    assert _ids(_route(reading, _load("m1", Role.MIXED, num_running=3))) == (None, "m1")


def test_without_prefill_decode_reads_and_without_decode_there_is_no_route() -> None:
    assert _ids(_route(_load("d0", Role.DECODE))) == (None, "d0")
    assert _route(_load("p0", Role.PREFILL)) is None
    assert _route() is None


def test_workers_that_failed_the_request_are_chosen_only_when_there_is_no_other() -> None:
    first, second = _load("d0", Role.DECODE), _load("d1", Role.DECODE, num_running=60)
    assert _ids(_route(first, second, request=_request(excluded=("d0",)))) == (None, "d1")
    assert _ids(_route(first, request=_request(excluded=("d0",)))) == (None, "d0")


def test_a_worker_that_can_never_hold_the_request_is_not_chosen() -> None:
    small = _load("d0", Role.DECODE, num_blocks=10, num_free_blocks=10)
    large = _load("d1", Role.DECODE, num_running=63)
    assert _ids(_route(small, large)) == (None, "d1")
    assert _route(small) is None


def test_equal_workers_share_by_lot_and_the_same_lot_gives_the_same_route() -> None:
    loads = [_load(f"d{number}", Role.DECODE) for number in range(4)]
    counts = Counter(_ids(_route(*loads, seed=seed))[1] for seed in range(200))
    assert set(counts) == {"d0", "d1", "d2", "d3"}
    assert min(counts.values()) > 20
    assert _route(*loads, seed=7) == _route(*loads, seed=7)


def test_a_large_pool_is_sampled_and_prefix_holders_are_found() -> None:
    loads = [_load(f"d{number}", Role.DECODE, num_running=number % 5) for number in range(1000)]
    index = PrefixIndex()
    index.update("d777", added=HASHES, removed=[])
    assert _ids(_route(*loads, index=index))[1] == "d777"
    chosen = {_ids(_route(*loads, seed=seed))[1] for seed in range(50)}
    assert len(chosen) > 30


def test_a_large_pool_with_one_fitting_worker_finds_it() -> None:
    loads = [_load(f"d{number}", Role.DECODE, num_blocks=1) for number in range(100)]
    loads.append(_load("big", Role.DECODE))
    assert _ids(_route(*loads)) == (None, "big")


def test_a_draft_worker_is_asked_for_nothing() -> None:
    draft = [_load(f"x{number}", Role.DRAFT) for number in range(100)]
    assert _route(*draft) is None
    index = PrefixIndex()
    index.update("x7", added=HASHES, removed=[])
    others = [_load(f"d{number}", Role.DECODE) for number in range(20)]
    others += [_load(f"p{number}", Role.PREFILL) for number in range(20)]
    route = _route(*draft, *others, index=index)
    assert route is not None
    assert route.prefill_id is not None
    assert (route.prefill_id[0], route.decode_id[0]) == ("p", "d")


def _drafts(*loads: WorkerLoad, wants_drafts: bool = True, seed: int = 0) -> str | None:
    route = _route(*loads, request=replace(_request(), wants_drafts=wants_drafts), seed=seed)
    assert route is not None
    return route.draft_id


def test_each_decode_worker_has_a_draft_worker_of_its_own_while_none_has_far_less_to_do() -> None:
    drafts = [_load(f"x{number}", Role.DRAFT) for number in range(2)]
    homes = {}
    for busy in ("d0", "d1", "d2"):
        decodes = [_load(name, Role.DECODE, num_running=0 if name == busy else 9) for name in ("d0", "d1", "d2")]
        homes[busy] = {_drafts(*decodes, *drafts, seed=seed) for seed in range(9)}
    assert homes == {"d0": {"x0"}, "d1": {"x1"}, "d2": {"x0"}}
    decode = _load("d0", Role.DECODE)
    for num_running, chosen in ((16, "x0"), (17, "x1")):
        assert _drafts(decode, _load("x0", Role.DRAFT, num_running=num_running), drafts[1]) == chosen
    assert _drafts(decode, _load("x0", Role.DRAFT, num_outstanding=17), drafts[1]) == "x1"


def test_nobody_drafts_for_a_request_that_wants_none_or_where_there_is_no_draft_worker() -> None:
    decode, draft = _load("d0", Role.DECODE), _load("x0", Role.DRAFT)
    assert _drafts(decode, draft) == "x0"
    assert _drafts(decode, draft, wants_drafts=False) is None
    assert _drafts(decode) is None
    assert _drafts(_load("m0", Role.MIXED), draft) == "x0"


def test_of_a_large_draft_pool_some_are_looked_at() -> None:
    drafts = [_load(f"x{number}", Role.DRAFT, num_running=60 if number == 0 else 0) for number in range(100)]
    chosen = {_drafts(_load("d0", Role.DECODE), *drafts, seed=seed) for seed in range(50)}
    assert len(chosen) > 20
    assert "x0" not in chosen


def _of(family: str, *loads: WorkerLoad) -> list[WorkerLoad]:
    return [replace(load, family=family) for load in loads]


def test_a_prompt_is_read_by_a_worker_that_can_hand_it_over() -> None:
    old = _of("old", _load("p0", Role.PREFILL, prefill_tokens_per_s=1e6), _load("d0", Role.DECODE, num_running=60))
    new = _of("new", _load("p1", Role.PREFILL, num_waiting_tokens=10_000), _load("d1", Role.DECODE))
    for seed in range(8):
        assert _ids(_route(*old, *new, seed=seed)) == ("p1", "d1")


def test_a_decode_worker_alone_in_its_family_reads_prompts_itself() -> None:
    loads = [*_of("old", _load("p0", Role.PREFILL)), *_of("new", _load("d1", Role.DECODE))]
    assert _ids(_route(*loads)) == (None, "d1")


def test_of_a_large_pool_no_prefix_holder_of_another_family_is_taken() -> None:
    index = PrefixIndex()
    index.update("p0", added=HASHES, removed=[])
    new = _of("new", *(_load(f"q{i}", Role.PREFILL, num_waiting_tokens=9999) for i in range(40)))
    loads = [*_of("old", _load("p0", Role.PREFILL)), *new, *_of("new", _load("d1", Role.DECODE))]
    for seed in range(8):
        prefill_id, _ = _ids(_route(*loads, index=index, seed=seed))
        assert prefill_id is not None
        assert prefill_id.startswith("q")
