"""Every family across the hand-over between gangs of unlike degrees: the tokens of one rank."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from baton.v1.worker_pb2 import DecodeRoute
from tests.models import FAMILIES, tiny
from tests.unit.engine.driver import Driver
from tests.unit.kv_transfer.harness import WAIT_S, Server
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import ask, check, prompts, spec
from workers.kv_transfer.gang_links import LeaderLinks, Life
from workers.model.contract import ModelRunner
from workers.model.places import Degrees
from workers.model.runner import TorchRunner
from workers.spec import GangSpec, KVSpec, Role, WorkerSpec


@dataclass(frozen=True)
class Leader:
    runner: ModelRunner
    links: LeaderLinks
    route: DecodeRoute


@contextmanager
def leader(ranks: RankProcesses, spec: WorkerSpec, degrees: Degrees) -> Iterator[Leader]:
    """A worker of so many ranks, whose engine is yet to be made."""
    bugs: list[BaseException] = []
    settings: dict[str, Any] = {"notify": lambda: None, "fail": bugs.append}
    with runner_of(ranks, spec, degrees) as (runner, gang):
        life = Life(spec=replace(spec, secret="s3cret"), incarnation="", fingerprint=runner.fingerprint)
        if gang is not None:
            settings |= {"degrees": degrees, "tell": gang.tell, "num_steps": lambda: runner.num_steps}
        links = LeaderLinks(life, runner.store, **settings)
        if gang is not None:
            gang.on_message(links.on_message)
            runner.notes = links.outbox
        server = Server(links.servicer)
        addresses = [server.address, *links.wait_for_addresses(WAIT_S)]
        route = DecodeRoute(worker_id=spec.worker_id, address=server.address)
        if degrees.size > 1:
            route.rank_addresses.extend(addresses)
        try:
            yield Leader(runner, links, route)
        finally:
            links.close()
            server.stop()
    assert not bugs


@contextmanager
def runner_of(ranks: RankProcesses, spec: WorkerSpec, degrees: Degrees) -> Iterator[tuple[Any, Any]]:
    if degrees.size == 1:
        yield TorchRunner(replace(spec, gang=GangSpec())), None
    else:
        with ranks.gang(spec, degrees.size, sequence=degrees.sequence > 1, tensor=degrees.tensor) as led:
            yield led.runner, led.gang


@contextmanager
def handing_over(
    ranks: tuple[RankProcesses, RankProcesses], base: WorkerSpec, senders: int | Degrees, receivers: int
) -> Iterator[Driver]:
    degrees = senders if isinstance(senders, Degrees) else Degrees(senders)
    roles = (Role.PREFILL, Role.DECODE)
    specs = [replace(base, worker_id=f"{role.value}-0", role=role) for role in roles]
    with leader(ranks[0], specs[0], degrees) as prefill, leader(ranks[1], specs[1], Degrees(receivers)) as decode:
        runners = {spec.role: made.runner for spec, made in zip(specs, (prefill, decode), strict=True)}
        driver = Driver(specs, lambda spec: runners[spec.role], links=(prefill.links.outbox, decode.links.inbox))
        driver.route = decode.route
        yield driver


def _cases() -> list[Any]:
    """Every family at every pair of degrees; two KV heads, so that four ranks hold them twice."""
    pairs = [(2, 1), (1, 2), (2, 4), (4, 2), (2, 2)]
    usual = {("llama", (2, 1)), ("gpt_oss", (1, 2))}
    return [
        pytest.param(family, *pair, marks=() if (family, pair) in usual else pytest.mark.slow)
        for family in FAMILIES
        for pair in pairs
    ]


@pytest.mark.parametrize(("family", "senders", "receivers"), _cases())
def test_unlike_gangs_give_the_tokens_of_generate(
    ranks: RankProcesses, other_ranks: RankProcesses, family: str, senders: int, receivers: int
) -> None:
    folder = tiny(family)
    with handing_over((ranks, other_ranks), spec(folder), senders, receivers) as driver:
        ask(driver)
        driver.run()
        check(driver, folder)


@pytest.mark.parametrize(
    ("senders", "receivers", "transport"),
    [
        (2, 1, "auto"),
        pytest.param(1, 2, "grpc", marks=pytest.mark.slow),
        pytest.param(2, 4, "gloo", marks=pytest.mark.slow),
    ],
)
def test_prefix_hits_on_both_sides_and_choices_are_as_on_one_rank(
    ranks: RankProcesses, other_ranks: RankProcesses, senders: int, receivers: int, transport: str
) -> None:
    folder = tiny("qwen3")
    base = replace(spec(folder), kv=KVSpec(transport=transport))

    def answers(driver: Driver) -> list[list[int]]:
        for name in range(3):
            driver.submit(f"a{name}", prompts()[4][name : name + 6], max_tokens=16)
        driver.run()
        driver.submit("b", prompts()[4], max_tokens=4)
        driver.run()
        driver.submit("c", [*prompts()[4][:14], 9, 9], max_tokens=8)  # cached up to a place inside a block
        driver.submit("n", prompts()[4][:13], choices=3, max_tokens=6, temperature=1.0, seed=7)
        driver.run()
        return [driver.answer(name) for name in ("a0", "a1", "a2", "b", "c")] + [
            driver.answer("n", choice) for choice in range(3)
        ]

    wanted = answers(Driver([base], TorchRunner))
    with handing_over((ranks, other_ranks), base, senders, receivers) as driver:
        assert answers(driver) == wanted
        prefill, decode = driver.engines
        assert prefill.stats.num_prefix_hit_tokens > 0
        assert decode.inbox is not None
        copies = max(1, receivers // 2)  # of each of two KV heads
        token_nbytes = 3 * 2 * 2 * 16 * 4 * copies  # 3 layers of keys and values of 2 heads of 16 floats
        num_prompt_tokens = 3 * 6 + 17 + 16 + 13
        assert 0 < decode.inbox.bytes_received < num_prompt_tokens * token_nbytes, "nothing was cached there"
