"""Prompts that ranks read together and hand over together, each its turn of the blocks: the tokens of generate."""

from dataclasses import replace
from typing import Any

import pytest

from tests.models import FAMILIES, HYBRIDS, tiny
from tests.unit.engine.driver import Driver
from tests.unit.model.test_hybrid_engine import FAMILY, submit_all
from tests.unit.model.test_hybrid_engine import check as check_hybrid
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_handover_families import handing_over
from tests.unit.parallel.test_sequence_engine import shared
from tests.unit.parallel.test_sequence_hybrid import spec as hybrid_spec
from tests.unit.parallel.test_tensor import ask, check, one_thread, prompts
from workers.kv_transfer.gang_outbox import GangOutbox
from workers.model.places import Degrees
from workers.model.runner import TorchRunner
from workers.spec import KVSpec

__all__ = ["one_thread"]  # a fixture for all tests here
TRANSPORTS = ("auto", "gloo", "grpc")
USUAL = {("qwen3", 2, 1): "auto", ("gemma2", 3, 1): "gloo"}


def sent_by_each(driver: Driver) -> list[int]:
    """Bytes, once all followers have told of theirs."""
    outbox = driver.engines[0].outbox
    assert isinstance(outbox, GangOutbox)
    return [rank.bytes_sent for rank in outbox._ranks]


def _cases() -> list[Any]:
    """Every family and pair over one transport in turn; to gangs of two slowly, since four ranks share this machine."""
    cases = []
    for index, family in enumerate(FAMILIES):
        for turn, pair in enumerate([(2, 1), (3, 1), (2, 2), (4, 2)]):
            usual = USUAL.get((family, *pair))
            transport = usual or TRANSPORTS[(index + turn) % 3]
            cases.append(pytest.param(family, *pair, transport, marks=() if usual else pytest.mark.slow))
    return cases


@pytest.mark.parametrize(("family", "size", "receivers", "transport"), _cases())
def test_every_rank_hands_its_turn_over(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str, size: int, receivers: int, transport: str
) -> None:
    base = replace(shared(family), kv=KVSpec(transport=transport))
    with handing_over((ranks, other_ranks), base, Degrees(sequence=size), receivers) as driver:
        ask(driver)
        driver.run()
        check(driver, tiny(family))
        assert driver.engines[1].inbox is not None
        received = driver.engines[1].inbox.bytes_received
        assert received > 0
        assert all(0 < sent < received for sent in sent_by_each(driver))


@pytest.mark.parametrize(
    ("family", "size"),
    [
        pytest.param(family, size, marks=() if (family, size) == (FAMILY, 3) else pytest.mark.slow)
        for family in HYBRIDS
        for size in (2, 3)
    ],
)
def test_states_go_once(ranks: RankProcesses, other_ranks: RankProcesses, family: str, size: int) -> None:
    with handing_over((ranks, other_ranks), hybrid_spec(family), Degrees(sequence=size), 1) as driver:
        for _ in range(2):  # the second time from what is cached on both sides
            submit_all(driver)
            check_hybrid(driver, family)
            driver.tokens.clear(), driver.finals.clear()
        assert driver.engines[0].stats.num_prefix_hit_tokens > 0
        assert min(sent_by_each(driver)) > 0


def test_prefix_hits_on_either_side_and_choices_are_as_on_one_rank(
    ranks: RankProcesses, other_ranks: RankProcesses
) -> None:
    def answers(driver: Driver) -> list[list[int]]:
        for name in range(3):
            driver.submit(f"a{name}", prompts()[5][name : name + 22], max_tokens=16)
        driver.run()
        driver.submit("c", [*prompts()[5][:14], *prompts()[4]], max_tokens=8)  # cached up to a place inside a block
        driver.submit("n", prompts()[5][:19], choices=3, max_tokens=6, temperature=1.0, seed=7)
        driver.run()
        return [driver.answer(name) for name in ("a0", "a1", "a2", "c")] + [driver.answer("n", n) for n in range(3)]

    wanted = answers(Driver([shared("qwen3")], TorchRunner))
    with handing_over((ranks, other_ranks), shared("qwen3"), Degrees(sequence=2), 1) as driver:
        assert answers(driver) == wanted
        prefill, decode = driver.engines
        assert prefill.stats.num_prefix_hit_tokens > 0
        assert decode.inbox is not None
        token_nbytes = 3 * 2 * 2 * 16 * 4  # 3 layers of keys and values of 2 heads of 16 floats
        assert 0 < decode.inbox.bytes_received < (3 * 22 + 31 + 19) * token_nbytes, "nothing was cached there"
        assert sum(sent_by_each(driver)) == decode.inbox.bytes_received
