"""The engine itself, with a model that moves a clock instead of computing, beside a simulated worker: same times."""

from collections import defaultdict
from collections.abc import Callable
from random import Random

import pytest

from baton.v1 import inference_pb2, worker_pb2
from cluster.config import EngineConfig, RouterConfig
from cluster.planner.latency import PromptChunk
from cluster.simulator.contract import Arrival, SimCluster, SimPool
from cluster.simulator.world import simulate
from tests.simulation.cases import Linear
from tests.unit.engine.driver import Clock
from workers.engine.block_hash import block_hashes
from workers.engine.engine import Engine, StepReport
from workers.model.contract import Batch, Sampled
from workers.model.fake import NUM_LAYERS, FakeRunner
from workers.model.fake_store import TOKEN_NBYTES
from workers.spec import EngineSpec, Role, WorkerSpec

BLOCK_SIZE = 4
LATENCY = Linear()


class TimedRunner(FakeRunner):
    def __init__(self, spec: WorkerSpec, clock: Clock) -> None:
        super().__init__(spec)
        self._clock = clock

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[Sampled]:
        prompts, contexts = [], []
        num_prompt = {row.chunk: len(row.prompt_token_ids) for row in batch.samples}
        for index, chunk in enumerate(batch.chunks):
            if len(chunk.token_ids) == 1 and chunk.start >= num_prompt.get(index, chunk.num_sequence_tokens):
                contexts.append(chunk.num_sequence_tokens)
            else:
                prompts.append(PromptChunk(len(chunk.token_ids), chunk.start))
        self._clock.now_s += LATENCY.step_s(prompts, len(contexts), sum(contexts))
        return super().run(batch, on_layer)


class Load:
    """Requests at random times, some with a beginning in common."""

    def __init__(self, seed: int, engine: EngineConfig) -> None:
        rng = Random(seed)
        self.engine = engine
        self.num_blocks = rng.choice([30, 60, 200])
        common = [rng.randrange(1, 500) for _ in range(40)]
        self.prompts: list[list[int]] = []
        self.arrivals: list[Arrival] = []
        at_s = 0.0
        for _ in range(40):
            at_s += rng.expovariate(200.0)
            own = [rng.randrange(1, 500) for _ in range(rng.randint(1, 60))]
            prompt = common[: rng.choice([0, 0, 13, 40])] + own
            self.prompts.append(prompt)
            self.arrivals.append(
                Arrival(
                    at_s=at_s,
                    num_prompt_tokens=len(prompt),
                    num_output_tokens=rng.randint(1, 120 - len(prompt)),
                    block_hashes=tuple(block_hashes(prompt, BLOCK_SIZE)),
                )
            )


def real_times(load: Load) -> list[tuple[float, float, int]]:
    """Per request: first and last token, in seconds, and tokens of its prompt found in the cache."""
    config = load.engine
    spec = WorkerSpec(
        worker_id="mixed-0",
        role=Role.MIXED,
        model="fake",
        served_name="fake",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(
            block_size=BLOCK_SIZE,
            memory_bytes=load.num_blocks * NUM_LAYERS * BLOCK_SIZE * TOKEN_NBYTES,
            max_batched_tokens=config.max_batched_tokens,
            max_sequences=config.max_sequences,
            prefix_cache=config.prefix_cache,
            chunked_prefill=config.chunked_prefill,
        ),
    )
    clock = Clock()
    clock.now_s = 0.0
    times: dict[int, list[float]] = defaultdict(list)
    cached: dict[int, int] = {}

    def emit(report: StepReport) -> None:
        for output in (output for outputs in report.outputs.values() for output in outputs):
            times[int(output.request_id)] += [clock.now_s] * len(output.token_ids)
            if output.index == 0:
                cached[int(output.request_id)] = output.num_cached_tokens

    engine = Engine(runner=TimedRunner(spec, clock), spec=spec, emit=emit, clock=clock)
    waiting = list(enumerate(load.arrivals))
    while waiting or not engine.is_idle:
        while waiting and waiting[0][1].at_s <= clock.now_s:
            index, arrival = waiting.pop(0)
            engine.submit("ingress", submit_message(index, load.prompts[index], arrival.num_output_tokens))
        if not engine.step() and waiting:
            clock.now_s = max(clock.now_s, waiting[0][1].at_s)
    return [(times[index][0], times[index][-1], cached[index]) for index in range(len(load.arrivals))]


def submit_message(index: int, prompt: list[int], num_outputs: int) -> worker_pb2.Submit:
    return worker_pb2.Submit(
        request_id=str(index),
        prompt_token_ids=prompt,
        choices=[worker_pb2.ChoiceStart(choice=0)],
        sampling=inference_pb2.SamplingParams(max_tokens=num_outputs, seed=1, temperature=0.0, ignore_eos=True),
        timeout_s=1000.0,
    )


def simulated_times(load: Load) -> list[tuple[float, float, int]]:
    cluster = SimCluster(
        pools=[SimPool(role=Role.MIXED, num_workers=1, latency=LATENCY, num_blocks=load.num_blocks)],
        engine=load.engine,
        router=RouterConfig(),
    )
    records = simulate(cluster, load.arrivals, check_every=1).records
    assert [record.error for record in records] == [""] * len(records)
    return [(record.first_token_s, record.finished_s, record.num_cached_tokens) for record in records]


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked_prefill", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_simulated_worker_keeps_the_engine_s_times(seed: int, chunked_prefill: bool, prefix_cache: bool) -> None:
    engine = EngineConfig(
        block_size=BLOCK_SIZE,
        max_batched_tokens=48,
        max_sequences=8,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked_prefill,
    )
    load = Load(seed, engine)
    real, simulated = real_times(load), simulated_times(load)
    for found, expected in zip(simulated, real, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)
