"""Steps that are replayed from fixed buffers give what eager steps give, whatever was in the buffers before.

On a CPU a "graph" is the function that would be captured, called again: what it does not read from the buffers stays
what it was when it was captured.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.models import tiny
from tests.unit.model.cuda.steps import BLOCK, assert_replayed, fill_blocks, random_step
from tests.unit.model.driver import Driver, make_spec, prompts_of
from workers.model.attention import PagedAttention, PagedMeta
from workers.model.contract import Batch, Chunk, Row, SampleRow
from workers.model.cuda.choose import Chosen
from workers.model.cuda.graph_sizes import GraphSizes
from workers.model.cuda.graphs import StepGraphs
from workers.model.cuda.inputs import Taken
from workers.model.cuda.ways import TorchWay, TritonWay, Way
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import EngineSpec

pytest.importorskip("triton", reason="triton is not installed (make kernels)")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Again:
    """Implements `workers.model.cuda.capture.Capture`.

    Args:
        error: Of the captures from number `fails_from` on.
    """

    error: Exception | None = None
    fails_from: int = 0
    nbytes: int = 0
    num_captures: int = 0

    def __call__(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        if self.error is not None and self.num_captures >= self.fails_from:
            raise self.error
        self.num_captures += 1
        return compute


def with_graphs(family: str, way: Way) -> TorchRunner:
    """A runner on the CPU whose last block is scratch."""
    engine = EngineSpec(
        block_size=BLOCK, memory_bytes=4 << 20, max_model_len=96, max_sequences=8, max_batched_tokens=32
    )
    spec = make_spec(tiny(family), engine=engine)
    runner = TorchRunner(spec, native=False)
    runner.num_blocks -= 1
    attention, kinds = runner.attention, runner._kinds()
    runner.attention = attention
    runner.graphs = runner._make_graphs(Chosen(decode=way, mixed=way), kinds, spec, Again())
    return runner


@pytest.mark.parametrize(("family", "num_steps"), [("llama", 7), pytest.param("gemma2", 12, marks=pytest.mark.slow)])
def test_steps_of_all_kinds_in_any_order(family: str, num_steps: int) -> None:
    runner = with_graphs(family, TritonWay(CPU))
    fill_blocks(runner)
    rng = random.Random(4)
    for _ in range(num_steps):
        assert_replayed(runner, *random_step(rng, 60))
    assert runner.graphs is not None
    assert 3 <= runner.graphs.num_captured < num_steps, "some steps have the graph of another"


def test_decodes_by_a_way_that_reads_tables_of_one_width() -> None:
    runner = with_graphs("llama", TorchWay())
    fill_blocks(runner)
    rng = random.Random(5)
    for contexts in ([3, 40], [70], [0, 1], [9, 12, 80], [70, 2]):
        free = list(range(runner.num_blocks))
        rng.shuffle(free)
        chunks = [
            Chunk(
                token_ids=[rng.randrange(2, 160)],
                start=context,
                block_ids=[free.pop() for _ in range(context // BLOCK + 1)],
                num_sequence_tokens=context + 1,
            )
            for context in contexts
        ]
        assert_replayed(runner, chunks, [Row(at, 0) for at in range(len(chunks))])
    assert runner.graphs is not None
    assert runner.graphs.num_captured == 4, "(2, 16), (1, 32), (4, 32), (2, 32)"
    assert runner.graphs.run(*_step([[5, 6], [7]])) is None, "mixed steps have no graphs there"


def test_requests_get_the_tokens_of_eager_steps() -> None:
    plain = TorchRunner(make_spec(tiny("llama"), block_size=BLOCK), native=False)
    streams = []
    for runner in (with_graphs("llama", TritonWay(CPU)), plain):
        driver = Driver(runner, seed=1)
        driver.free = list(range(60))
        for prompt in prompts_of(random.Random(5), (1, 11, 19), 160):
            driver.add(prompt, 4)
        driver.finish()
        streams.append([stream.tokens for stream in driver.streams])
    assert streams[0] == streams[1]


def test_a_step_that_follows_one_in_flight_writes_what_it_would_have_written_later() -> None:
    runner = with_graphs("llama", TritonWay(CPU))
    fill_blocks(runner)
    first = runner.launch(_batch([[9]], 3))
    second = runner.launch(_batch([[0]], 4, follows=[0]))
    third = runner.launch(_batch([[0], [7, 8, 9]], 5, follows=[0, None]))
    assert runner.graphs is not None
    assert runner.graphs.num_captured == 2, "one token, and a mixed step"
    tokens = [[one.token_id for (one,) in step.result()] for step in (first, second, third)]
    fill_blocks(runner)
    runner.graphs = None
    (known,) = runner.run(_batch([[9]], 3))
    (next_known,) = runner.run(_batch([[known[0].token_id]], 4))
    last = runner.run(_batch([[next_known[0].token_id], [7, 8, 9]], 5))
    assert tokens == [[known[0].token_id], [next_known[0].token_id], [one.token_id for (one,) in last]]


@pytest.mark.parametrize("is_mixed", [False, True])
def test_tokens_may_come_from_the_device(is_mixed: bool) -> None:
    graphs = numbers()
    drawn = torch.tensor([90, 91, 92])
    prompts = [[40, 41, 42]] if is_mixed else []
    for rows in ([1, 2], [2, 0]):  # the second replays what the first captured
        found = graphs.run(*_step([[7], [0], [0], *prompts]), Taken(source=drawn, where=[1, 2], rows=rows))
        assert found is not None
        assert found[:3, 0].tolist() == [7, *(90 + row for row in rows)]
        assert not is_mixed or found[3, 0] == 42
    assert graphs.num_captured == 1


def test_what_no_graph_holds_is_left_to_eager_steps() -> None:
    graphs = numbers(max_sequences=2)
    assert graphs.run(*_step([[5], [6], [7]])) is None, "more sequences than the worker has"
    assert graphs.run(*_step([list(range(2, 35))])) is None, "more tokens than a step has"
    assert graphs.num_captured == 0


def test_what_cannot_be_captured_runs_eagerly_and_the_rest_is_replayed() -> None:
    capture = Again(error=RuntimeError("it waits"), fails_from=1)
    graphs = numbers(capture)
    decode, prompt = _step([[5]]), _step([[5, 6, 7]])
    assert graphs.run(*decode) is not None
    assert graphs.run(*prompt) is None
    capture.error = None
    assert graphs.run(*prompt) is None, "it is not tried at every step"
    assert graphs.run(*_step([[5], [6]])) is not None
    assert graphs.run(*decode) is not None
    assert graphs.num_captured == 2


def test_out_of_memory_leaves_the_graphs_that_are_there() -> None:
    capture = Again(error=torch.OutOfMemoryError(), fails_from=1)
    graphs = numbers(capture)
    assert graphs.run(*_step([[5]])) is not None
    assert graphs.run(*_step([[5], [6]])) is None
    capture.error = None
    assert graphs.run(*_step([[5], [6]])) is None
    assert graphs.run(*_step([[5]])) is not None


def test_usual_sizes_are_captured_at_start() -> None:
    graphs = numbers(max_sequences=2)
    found = graphs.capture_usual()
    assert (found.num_graphs, found.num_left) == (4, 0), "1 and 2 decodes, 16 and 32 tokens"
    assert found.nbytes > 0
    assert graphs.run(*_step([[5, 6, 7], [9]])) is not None
    assert graphs.num_captured == 4


def test_capturing_at_start_ends_with_its_budget() -> None:
    times = iter(range(100))
    found = numbers(max_sequences=2).capture_usual(budget_s=2.5, clock=lambda: float(next(times)))
    assert (found.num_graphs, found.num_left) == (2, 2)


def test_ranks_capture_the_same() -> None:
    """One rank's clock and one rank's failure count for all."""
    graphs = numbers(max_sequences=2, is_lazy=False)
    others = iter([0.0, 1.0, 0.0, 0.0, 11.0])  # seconds, whether it failed, ...
    found = graphs.capture_usual(clock=lambda: 0.0, most_of_all=lambda mine: max(mine, next(others)))
    assert found.num_graphs == 1, "the largest failed there, one decode did not, and then the time was over"
    assert graphs.run(*_step([[5, 6, 7]])) is None
    assert graphs.run(*_step([[5]])) is not None


def test_where_one_rank_has_no_memory_none_captures_more() -> None:
    graphs = numbers(max_sequences=2, is_lazy=False)
    others = iter([0.0, 0.0, 0.0, 2.0])
    found = graphs.capture_usual(clock=lambda: 0.0, most_of_all=lambda mine: max(mine, next(others, 0.0)))
    assert found.num_graphs == 1
    assert graphs.run(*_step([[5], [6]])) is None
    assert graphs.run(*_step([[5] * 20])) is not None, "the largest was there before"


def test_where_ranks_may_meet_different_steps_mixed_ones_are_not_captured_later() -> None:
    graphs = numbers(is_lazy=False)
    assert graphs.run(*_step([[5, 6, 7]])) is None
    assert graphs.run(*_step([[5]])) is not None


def numbers(capture: Again | None = None, *, max_sequences: int = 8, is_lazy: bool = True) -> StepGraphs:
    """Of a model whose logits are a token and its slot."""

    def forward(
        tokens: Tensor, positions: Tensor, slots: Tensor, meta: PagedMeta, attention: PagedAttention, rows: Tensor
    ) -> Tensor:
        return torch.stack([tokens[0], slots], dim=1)[rows].float()

    sizes = GraphSizes(max_sequences=max_sequences, max_tokens=32, max_blocks=24, block_size=BLOCK)
    way = TritonWay(CPU)
    return StepGraphs(
        forward,
        sizes=sizes,
        decode=way,
        mixed=way,
        device=CPU,
        scratch_block=99,
        capture=capture or Again(),
        is_lazy=is_lazy,
    )


def _step(tokens: Sequence[Sequence[int]]) -> tuple[list[Chunk], list[Row]]:
    """A chunk of each after 3 tokens, and a row of each."""
    chunks = [
        Chunk(
            token_ids=mine,
            start=3,
            block_ids=list(range(10 * at, 10 * at + 10)),
            num_sequence_tokens=3 + len(mine),
        )
        for at, mine in enumerate(tokens)
    ]
    return chunks, [Row(at, 0) for at in range(len(chunks))]


def _batch(tokens: Sequence[Sequence[int]], start: int, follows: Sequence[int | None] = ()) -> Batch:
    """Greedy, a token after each chunk; of each the sequence that it has in `_step`."""
    chunks = [
        Chunk(
            token_ids=mine,
            start=start,
            block_ids=list(range(10 * at, 10 * at + 10)),
            num_sequence_tokens=start + len(mine),
            follows=row,
        )
        for at, (mine, row) in enumerate(zip(tokens, follows or [None] * len(tokens), strict=True))
    ]
    params = SamplingParams(max_tokens=1, temperature=0.0)
    samples = [
        SampleRow(chunk=at, choice=0, params=params, prompt_token_ids=(0,), output_token_ids=(), follows=chunk.follows)
        for at, chunk in enumerate(chunks)
    ]
    return Batch(chunks=chunks, samples=samples)
