"""One way of speculating under a load: an engine that keeps so many answers running, and what it made of that.

Sides share a runner, so each has blocks of its own: the load goes on where it stood after others had their turn.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from baton.v1 import inference_pb2, worker_pb2
from bench.engine_baton import outputs_of
from workers.engine.engine import Engine, StepReport
from workers.engine.sequence import Sequence as Seq
from workers.model.runner import TorchRunner
from workers.model.sampling_params import SamplingParams
from workers.spec import WorkerSpec
from workers.speculative.speculation import DraftedSpeculation

Answered = Callable[[int, Sequence[int]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one side did in one of its turns.

    Attributes:
        num_decodes: Of all steps, the sequences that decoded in them.
        drafted: Draft tokens verified, of the first place of a draft, the second, ...
        right: How many of each place were right; as long as `drafted`.
    """

    num_tokens: int
    took_s: float
    num_decodes: int
    drafted: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.num_tokens / self.took_s

    @property
    def drafts_per_decode(self) -> float:
        return sum(self.drafted) / max(self.num_decodes, 1)

    def share_right(self, place: int) -> float | None:
        """Of the draft tokens at a place, from 0; None: none was verified."""
        if place >= len(self.drafted) or not self.drafted[place]:
            return None
        return self.right[place] / self.drafted[place]


def joined(slices: Sequence[Slice]) -> Slice:
    return Slice(
        num_tokens=sum(one.num_tokens for one in slices),
        took_s=sum(one.took_s for one in slices),
        num_decodes=sum(one.num_decodes for one in slices),
        drafted=_summed(one.drafted for one in slices),
        right=_summed(one.right for one in slices),
    )


def _summed(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(*rows, fillvalue=0)))


@dataclass(slots=True)
class Answer:
    sort: int  # number of its prompt
    token_ids: list[int] = field(default_factory=list)


class Side:
    """Asks the next prompt when an answer ends. Of one thread.

    Args:
        prompts: Asked in turn.
        num_tokens: Of an answer at most.
        part: Of how many, equal ones, in which the runner's blocks are divided, which one is this side's.
        answered: Told of each answer that has ended or was cut off, with the number of its prompt.
        clock: Seconds, the engine's too.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        runner: TorchRunner,
        speculation: DraftedSpeculation | None,
        *,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        part: tuple[int, int],
        answered: Answered,
        clock: Callable[[], float],
        temperature: float = 0.0,
    ) -> None:
        self._temperature = temperature
        self._prompts, self._max_tokens, self._answered = prompts, num_tokens, answered
        self._live: dict[str, Answer] = {}  # the one that began first, first
        self._num_asked = 0
        self._num_written = self._wanted = self._num_decodes = 0
        self._clock = clock
        self._engine = Engine(runner=runner, spec=spec, emit=self._take, clock=clock, speculation=speculation)
        hold_others(self._engine, *part)

    def read_prompts(self) -> None:
        """Each once, so that the prefix cache has them: what is timed is decoding."""
        for sort in range(len(self._prompts)):
            self._ask(sort, 2)
        while not self._engine.is_idle:
            self._engine.step()
        self._wanted = self._num_written

    def advance(self, num_at_once: int, num_tokens: int) -> Slice:
        """Keeps `num_at_once` answers running until `num_tokens` more are written, as all sides must."""
        self._cut_off(num_at_once)
        stats = self._engine.stats
        self._wanted += num_tokens
        num_written, num_decodes = self._num_written, self._num_decodes
        drafted, right = list(stats.drafted_by_place), list(stats.accepted_by_place)
        began_s = self._clock()
        while self._num_written < self._wanted:
            while len(self._live) < num_at_once:
                self._ask(self._num_asked % len(self._prompts), self._max_tokens)
            self._engine.step()
        took_s = self._clock() - began_s
        num_places = len(stats.drafted_by_place)
        return Slice(
            num_tokens=self._num_written - num_written,
            took_s=took_s,
            num_decodes=self._num_decodes - num_decodes,
            drafted=_since(stats.drafted_by_place, drafted, num_places),
            right=_since(stats.accepted_by_place, right, num_places),
        )

    def end(self) -> None:
        self._cut_off(0)
        self._engine.step()
        self._engine.blocks.check_integrity()

    def _ask(self, sort: int, num_tokens: int) -> None:
        name = str(self._num_asked)
        self._num_asked += 1
        self._live[name] = Answer(sort)
        sampling = inference_pb2.SamplingParams(max_tokens=num_tokens, temperature=self._temperature, seed=1 + sort)
        submit = worker_pb2.Submit(
            request_id=name, prompt_token_ids=self._prompts[sort], sampling=sampling, timeout_s=3600
        )
        submit.choices.add(choice=0)
        self._engine.submit("bench", submit)

    def _cut_off(self, num_left: int) -> None:
        """The latest first: the load has fallen."""
        while len(self._live) > num_left:
            name, answer = self._live.popitem()
            self._engine.abort(worker_pb2.Abort(request_id=name))
            self._answered(answer.sort, answer.token_ids)

    def _take(self, report: StepReport) -> None:
        for output in outputs_of(report):
            answer = self._live[output.request_id]
            self._num_decodes += bool(answer.token_ids)  # its first token came of reading the prompt
            answer.token_ids += output.token_ids
            self._num_written += len(output.token_ids)
            if output.finish_reason:
                del self._live[output.request_id]
                self._answered(answer.sort, answer.token_ids)


def _since(counts: Sequence[int], before: Sequence[int], num_places: int) -> tuple[int, ...]:
    """Places that were never counted are 0."""
    now, then = ([*row, *[0] * (num_places - len(row))] for row in (counts, before))
    return tuple(new - old for new, old in zip(now, then, strict=True))


def hold_others(engine: Engine, which: int, num_parts: int) -> None:
    """Takes all parts of the blocks but one: managers of one size give them out in the same order."""
    blocks = engine.blocks
    held = []
    for number in range(num_parts):
        seq = Seq(
            request_id=f"part {number}",
            choice=0,
            attempt=0,
            ingress_id="",
            prompt_token_ids=(),
            params=SamplingParams(max_tokens=1),
            arrived_s=0.0,
            deadline_s=0.0,
        )
        blocks.grow(seq, blocks.num_blocks // num_parts * blocks.block_size)
        held.append(seq)
    blocks.free(held[which])
