"""Simulated workers whose drafts are chosen by production's own goodput and pace."""

from collections.abc import Sequence

import pytest

from cluster.config.load import loads
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import PromptChunk
from cluster.contracts.simulation import Arrival, SimCluster, SimDrafts, SimPool, SimResult
from cluster.simulator.from_config import drafts_of
from cluster.simulator.world import simulate
from workers.spec import Role


class Flat:
    """Steps that take as long whatever they compute, and a little for each token beyond the first of a sequence."""

    pipeline_stages = 1

    def __init__(self, step_s: float, token_s: float = 0.0) -> None:
        self._step_s, self._token_s = step_s, token_s

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        return self._step_s + self._token_s * sum(chunk.num_tokens - 1 for chunk in prompts)

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return num_steps * self._step_s


TARGET = Flat(0.02, 0.0005)


def run(drafts: SimDrafts | None, *, num_requests: int = 8) -> SimResult:
    pool = SimPool(role=Role.MIXED, num_workers=1, latency=TARGET, num_blocks=4096, drafts=drafts)
    arrivals = [Arrival(at_s=0.1 * n, num_prompt_tokens=40, num_output_tokens=300) for n in range(num_requests)]
    return simulate(SimCluster(pools=(pool,)), arrivals, seed=3)


def tokens_per_s(result: SimResult) -> float:
    assert not any(record.error for record in result.records)
    return sum(record.num_output_tokens for record in result.records) / result.end_s


def drafts(chance: float, latency: Flat | None = None, *, is_remote: bool = False) -> SimDrafts:
    return SimDrafts(max_tokens=6, chances=DraftChances((chance,)), latency=latency, is_remote=is_remote)


@pytest.mark.parametrize("latency", [None, Flat(0.001)])
def test_likely_drafts_that_cost_little_make_answers_faster(latency: Flat | None) -> None:
    assert tokens_per_s(run(drafts(0.9, latency))) > 1.5 * tokens_per_s(run(None))


@pytest.mark.parametrize("latency", [None, Flat(0.001), Flat(0.05)])
@pytest.mark.parametrize("chance", [0.0, 0.1])
def test_drafts_that_do_not_pay_cost_three_percent_at_most(latency: Flat | None, chance: float) -> None:
    assert tokens_per_s(run(drafts(chance, latency))) > 0.97 * tokens_per_s(run(None))


def test_a_draft_model_too_slow_to_wait_for_pays_on_workers_of_its_own() -> None:
    plain, slow = tokens_per_s(run(None)), Flat(0.006)
    waiting, ahead = (tokens_per_s(run(drafts(0.8, slow, is_remote=remote))) for remote in (False, True))
    assert ahead > 1.3 * plain
    assert ahead > waiting


def test_the_same_seed_gives_the_same_trace() -> None:
    hashes = {run(drafts(0.7, Flat(0.001))).trace_hash for _ in range(2)}
    assert len(hashes) == 1


def test_a_draft_pool_is_shared_by_the_workers_that_decode() -> None:
    config = loads("model: demo\npools: {decode: {workers: 3}, draft: {workers: 2}}\nspeculation: {max_tokens: 5}")
    made = drafts_of(config, DraftChances((0.5,)), TARGET)
    assert (made.max_tokens, made.is_remote, made.num_sharing) == (5, True, 1.5)
