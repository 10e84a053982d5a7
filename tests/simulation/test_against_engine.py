"""The engine itself, with a model that moves a clock instead of computing, beside a simulated worker: same times."""

from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as List
from random import Random

import pytest

from baton.v1 import inference_pb2, worker_pb2
from cluster.config.schema import EngineConfig, RouterConfig
from cluster.contracts.latency import PromptChunk
from cluster.contracts.simulation import Arrival, SimCluster, SimDrafter, SimPool
from cluster.simulator.world import simulate
from tests.simulation.cases import Linear
from tests.unit.engine.driver import Clock, speculating
from tests.unit.engine.stateful_fake import StatefulFakeRunner
from workers.engine.block_hash import block_hashes
from workers.engine.drafting import Draft, Drafter
from workers.engine.engine import Engine, StepReport
from workers.engine.scheduler import ScheduledChunk
from workers.engine.sequence import Sequence
from workers.memory_shares import MemoryShares
from workers.model.contract import Batch, ChunkKind, Sampled
from workers.model.fake import NUM_LAYERS, VOCAB_SIZE, FakeRunner
from workers.model.fake_store import TOKEN_NBYTES
from workers.spec import EngineSpec, Role, WorkerSpec

BLOCK_SIZE = 4
LATENCY = Linear()


class TimedRunner(FakeRunner):
    def __init__(self, spec: WorkerSpec, clock: Clock) -> None:
        super().__init__(spec)
        self._clock = clock

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        prompts, contexts = [], []
        for chunk in batch.chunks:
            if chunk.kind is ChunkKind.DECODE and len(chunk.token_ids) == 1:
                contexts.append(chunk.num_sequence_tokens)
            else:
                prompts.append(PromptChunk(len(chunk.token_ids), chunk.start))
        self._clock.now_s += LATENCY.step_s(prompts, len(contexts), sum(contexts))
        return super().run(batch, on_layer)


class TimedStates(TimedRunner, StatefulFakeRunner):
    """Of a model that keeps a state of each sequence."""


class Load:
    """Requests at random times, some with a beginning in common.

    `keeps_states`: whether the model does, of each sequence.
    """

    def __init__(self, seed: int, engine: EngineConfig, *, keeps_states: bool = False) -> None:
        rng = Random(seed)
        self.engine = engine
        self.keeps_states = keeps_states
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

    def memory(self, num_blocks: int) -> MemoryShares:
        """As `StatefulFakeRunner` shares it out, or `FakeRunner`."""
        if not self.keeps_states:
            return MemoryShares(num_blocks)
        spacing = 2 * BLOCK_SIZE if self.engine.prefix_cache else None
        return MemoryShares(num_blocks, self.engine.max_sequences + 2, spacing)

    def pool(self, role: Role, num_blocks: int, drafter: SimDrafter | None = None) -> SimPool:
        """One simulated worker."""
        shares = self.memory(num_blocks)
        return SimPool(
            role=role,
            num_workers=1,
            latency=LATENCY,
            num_blocks=shares.num_blocks,
            num_states=shares.num_states,
            state_spacing=shares.state_spacing,
            drafter=drafter,
        )


class Guesses:
    """What drafters of both sides agree on: how many tokens they guess at a place, and how many of them are right."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answers: dict[str, list[int]] = {}

    def at(self, seq: Sequence) -> tuple[int, int]:
        rng = Random(f"{seq.request_id}/{len(seq.output_token_ids)}")
        num_drafts = rng.randint(0, 6)
        return num_drafts, rng.randint(0, num_drafts)

    def answer(self, seq: Sequence) -> list[int]:
        if seq.request_id not in self._answers:
            prompt = self._load.prompts[int(seq.request_id)]
            answer = FakeRunner.expected_output(prompt, seq.params, 0, seq.params.max_tokens)
            self._answers[seq.request_id] = answer
        return self._answers[seq.request_id]


class RealDrafter:
    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses

    def propose(self, seqs: List[Sequence], depth: int) -> list[Draft]:
        return [Draft(self._draft(seq)) for seq in seqs]

    def _draft(self, seq: Sequence) -> list[int]:
        num_drafts, num_right = self._guesses.at(seq)
        draft = self._guesses.answer(seq)[len(seq.output_token_ids) :][:num_drafts]
        return draft[:num_right] + [(token + 1) % VOCAB_SIZE for token in draft[num_right:]]


class SimulatedDrafter:
    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self.num_accepted_tokens = 0

    def propose(self, seqs: List[Sequence], depth: int) -> list[Draft]:
        return [Draft([0] * self._guesses.at(seq)[0]) for seq in seqs]

    def num_accepted(self, chunk: ScheduledChunk) -> int:
        num_accepted = min(self._guesses.at(chunk.seq)[1], len(chunk.draft_token_ids))
        self.num_accepted_tokens += num_accepted
        return num_accepted


def real_times(load: Load, drafter: Drafter | None = None) -> list[tuple[float, float, int]]:
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

    runner = TimedStates(spec, clock) if load.keeps_states else TimedRunner(spec, clock)
    engine = Engine(runner=runner, spec=spec, emit=emit, clock=clock, speculation=speculating(drafter, runner))
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


def simulated_times(load: Load, drafter: SimDrafter | None = None) -> list[tuple[float, float, int]]:
    pool = load.pool(Role.MIXED, load.num_blocks, drafter)
    cluster = SimCluster(pools=[pool], engine=load.engine, router=RouterConfig())
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


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked_prefill", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_simulated_worker_of_a_model_with_states_keeps_the_engine_s_times(
    seed: int, chunked_prefill: bool, prefix_cache: bool
) -> None:
    """Its chunks end where states are kept, slots bound what runs, and a hit needs a state."""
    engine = EngineConfig(
        block_size=BLOCK_SIZE,
        max_batched_tokens=48,
        max_sequences=4,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked_prefill,
    )
    load = Load(seed, engine, keeps_states=True)
    real, simulated = real_times(load), simulated_times(load)
    for found, expected in zip(simulated, real, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked_prefill", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_simulated_worker_with_drafts_keeps_the_engine_s_times(
    seed: int, chunked_prefill: bool, prefix_cache: bool
) -> None:
    engine = EngineConfig(
        block_size=BLOCK_SIZE,
        max_batched_tokens=48,
        max_sequences=8,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked_prefill,
    )
    load = Load(seed, engine)
    guesses = Guesses(load)
    drafter = SimulatedDrafter(guesses)
    real, simulated = real_times(load, RealDrafter(guesses)), simulated_times(load, drafter)
    for found, expected in zip(simulated, real, strict=True):
        assert found == pytest.approx(expected, abs=1e-9)
    assert drafter.num_accepted_tokens > 100
