"""A draft worker's loop: take what came in, compute one pass, say what is guessed now.

It runs free: while there is a likely way on for any text that it follows, it computes, whether a target verifies
meanwhile or not. Passes are short, so news never waits long. What to compute is `forecasts.Forecasts`' to say.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial

from baton.errors import InternalError, InvalidRequestError
from baton.v1 import worker_pb2
from baton.v1.draft_pb2 import Follow, News
from workers.engine import wire
from workers.engine.block_manager import BlockManager
from workers.engine.engine import StepReport
from workers.engine.load_report import LoadReport
from workers.engine.measures import EngineMeasures
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import Batch, Chunk, ModelRunner, SampleRow
from workers.spec import Role, WorkerSpec
from workers.speculative.forecast import Limits
from workers.speculative.forecasts import Forecasts, Peer, Planned
from workers.speculative.telling import Guesses, Telling

logger = logging.getLogger(__name__)
HOUSEKEEPING_S = 0.5
REPORT_S = 0.05  # between two load reports
SMOOTHING = 0.1


class DraftEngine:
    """Drives one runner. `follow`, `news`, `leave`, and what `Engine` has of the kind, may be called from any thread.

    Args:
        emit: As of `workers.engine.engine.Engine`.
        tell: Called from the engine's thread with what is guessed anew of peers' sequences, when they are to know.
    """

    def __init__(
        self,
        *,
        runner: ModelRunner,
        spec: WorkerSpec,
        emit: Callable[[StepReport], None],
        tell: Callable[[dict[Peer, Guesses]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        engine = spec.engine
        self.runner = runner
        self.spec = spec
        self.blocks = BlockManager(
            num_blocks=runner.num_blocks, block_size=engine.block_size, prefix_cache=engine.prefix_cache
        )
        self.forecasts = Forecasts(
            blocks=self.blocks,
            max_sequences=engine.max_sequences,
            max_batched_tokens=engine.max_batched_tokens,
            eos_token_ids=frozenset(runner.eos_token_ids),
            copy_blocks=runner.copy_blocks,
            splits_passes=spec.gang.layer_parallel > 1,
        )
        self._emit, self._clock = emit, clock
        self._telling = Telling(tell, clock)
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._is_stopped = False
        self._is_draining = False
        self._num_steps = 0
        self._num_drafted = 0
        self._step_s = 0.0
        self._measures = EngineMeasures()
        self._busy_since_s: float | None = None
        self._reported_s = 0.0
        self._outputs: dict[str, list[worker_pb2.TokenOutput]] = defaultdict(list)
        self.load = self._load()  # the last one told

    # Commands, from any thread.

    def join(self, limits: Limits) -> Peer:
        """A peer whose texts may be followed from now on."""
        peer = Peer(limits)
        self._command(lambda: self.forecasts.join(peer))
        return peer

    def leave(self, peer: Peer) -> None:
        self._command(lambda: self.forecasts.leave(peer))

    def follow(self, peer: Peer, follow: Follow) -> None:
        """Raises: InvalidRequestError: the model does not have such tokens, or the sampling parameters are none."""
        self._check_tokens(follow.prompt_token_ids)
        self._check_tokens(follow.output_token_ids)
        params = wire.sampling_params(follow.sampling)
        self._check_tokens(token_id for token_id, _ in params.logit_bias)
        seq = Seq(
            request_id="",
            choice=follow.choice,
            attempt=0,
            ingress_id="",
            prompt_token_ids=tuple(follow.prompt_token_ids),
            output_token_ids=list(follow.output_token_ids),
            params=params,
            arrived_s=0.0,
            deadline_s=0.0,
        )
        self._command(lambda: self.forecasts.follow(peer, follow.number, seq))

    def news(self, peer: Peer, news: News) -> None:
        """Raises: InvalidRequestError: the model does not have such tokens."""
        for written in news.written:
            self._check_tokens(written.token_ids)
        self._command(partial(self._take_news, peer, news))

    def _check_tokens(self, token_ids: Iterable[int]) -> None:
        highest = max(token_ids, default=0)
        if highest >= self.runner.vocab_size:
            raise InvalidRequestError(f"token id {highest} is not in the vocabulary of {self.runner.vocab_size}")

    def submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        """Refused by name: a draft worker takes no requests."""
        self._command(partial(self._refuse, ingress_id, submit))

    def abort(self, abort: worker_pb2.Abort) -> None:
        """Nothing was taken."""

    def disconnect(self, ingress_id: str) -> None:
        """Nothing was taken."""

    def drain(self) -> None:
        """What is guessed is of use until the stream ends, and then of none: nobody needs to wait."""
        self._is_draining = True
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._is_stopped = True
        self._wake.set()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake.set()

    # The loop.

    def run(self) -> None:
        """Passes until `stop`; sleeps while nothing more is worth guessing."""
        while not self._is_stopped:
            self._wake.clear()
            if not self.step():
                self._wake.wait(HOUSEKEEPING_S)

    def step(self) -> bool:
        """One pass; whether the next one should follow at once."""
        began_s = self._clock()
        while self._commands:
            self._commands.popleft()()
        planned = self.forecasts.plan()
        if planned:
            if self._busy_since_s is None:
                self._busy_since_s = began_s
                self._report(is_urgent=True)  # a first pass that hangs is seen by this alone
            self._telling.grown(self._run(planned))
            took_s = self._clock() - began_s
            self._num_steps += 1
            self._measures.draft_step(len(planned), sum(row.ask.num_tokens for row in planned), took_s)
            self._step_s += (took_s - self._step_s) * (SMOOTHING if self._num_steps > 1 else 1.0)
            self._busy_since_s = self._clock()
        else:
            self._telling.nothing_more()
        if not planned and self._busy_since_s is not None and began_s - self._busy_since_s >= HOUSEKEEPING_S:
            self._busy_since_s = None  # not between two news: each would be two reports
        self._report(is_urgent=not planned)
        return bool(planned or self._commands)

    def _run(self, planned: list[Planned]) -> list[Planned]:
        """One pass; of its rows those whose texts are guessed at anew."""
        planned.sort(key=lambda row: row.ask.num_tokens)
        asking = [index for index, row in enumerate(planned) if row.ask.asks]
        batch = Batch(
            chunks=[_chunk(row) for row in planned], samples=[_sample_row(planned[index], index) for index in asking]
        )
        runs = self.runner.run(batch)
        for row in planned:
            row.text.computed(row.ask)
        asked = [planned[index] for index in asking]
        for row, (sampled,) in zip(asked, runs, strict=True):
            row.text.take(row.ask, sampled)
        self._num_drafted += len(asked)
        return asked

    def _take_news(self, peer: Peer, news: News) -> None:
        if news.written:
            self._telling.heard(peer)
        for written in news.written:
            self.forecasts.written(peer, written.number, written.start, written.token_ids)
        for number in news.forgotten:
            self.forecasts.forget(peer, number)

    def _refuse(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        error = InternalError(f"worker {self.spec.worker_id} is a draft worker and takes no requests")
        for output in wire.refusals(submit, error):
            self._outputs[ingress_id].append(output)

    # Its load.

    def _report(self, *, is_urgent: bool) -> None:
        now_s = self._clock()
        self.blocks.drain_cache_events()  # nobody routes by what is cached here
        if now_s - self._reported_s < REPORT_S and not (is_urgent or self._outputs or self._is_draining):
            return
        load = self._load()
        if load != self.load or self._outputs:
            self.load, self._reported_s = load, now_s
            outputs, self._outputs = self._outputs, defaultdict(list)
            self._emit(StepReport(outputs, [], [], load))

    def _load(self) -> LoadReport:
        forecasts, num_active = self.forecasts, self.forecasts.num_active
        num_followed = sum(len(peer.texts) for peer in forecasts.peers)
        return LoadReport(
            role=Role.DRAFT,
            is_idle=True,
            waiting_since_s=self._busy_since_s,
            draining=self._is_draining,
            num_free_blocks=self.blocks.num_free_blocks,
            num_referenced_blocks=self.blocks.num_referenced_blocks,
            num_quarantined_blocks=0,
            num_states=0,
            num_free_states=0,
            num_running=num_active,
            num_waiting=num_followed - num_active,
            num_waiting_tokens=0,
            num_preemptions=0,
            num_steps=self._num_steps,
            step_s=self._step_s,
            prefill_tokens_per_s=0.0,
            num_prefix_hit_tokens=0,
            num_prompt_tokens=0,
            num_output_tokens=self._num_drafted,
            kv_bytes_sent=0,
            kv_bytes_received=0,
            num_transfers=0,
            num_failed_transfers=0,
            num_draft_peers=len(forecasts.peers),
            num_guess_hits=forecasts.counts.num_hits,
            num_guess_misses=forecasts.counts.num_misses,
            num_cached_blocks=self.blocks.num_cached_blocks,
            measures=self._measures.message(self._clock()),
        )


def _chunk(row: Planned) -> Chunk:
    seq, ask = row.ask.branch.seq, row.ask
    start = seq.num_computed_tokens
    return Chunk(
        token_ids=seq.tokens(start, start + ask.num_tokens),
        start=start,
        block_ids=seq.block_ids,
        num_sequence_tokens=seq.num_tokens,
        kind=ask.kind,
    )


def _sample_row(row: Planned, chunk: int) -> SampleRow:
    seq = row.ask.branch.seq
    return SampleRow(
        chunk=chunk,
        choice=seq.choice,
        params=row.text.params,
        prompt_token_ids=seq.prompt_token_ids,
        output_token_ids=seq.output_token_ids,
    )
