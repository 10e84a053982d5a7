"""The state of one request: what was delivered of each choice, on whom it depends, when it starts anew.

Invariant: each choice's tokens are delivered in order, each once, also across attempts, and each choice ends once.
No I/O: outputs and losses go in, deliverable outputs come out, and messages for workers wait in `launches` and
`take_aborts`. Where an attempt runs is `cluster.router.policy`'s to say.

Attempts are numbered through the whole request, not per choice: a worker that refuses attempts older than the newest
it has seen never refuses a current one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from baton.errors import BatonError, UnavailableError, from_code
from baton.v1.inference_pb2 import (
    FINISH_REASON_ABORT,
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FinishReason,
    SamplingParams,
)
from baton.v1.worker_pb2 import Abort, Adapter, ChoiceStart, DecodeRoute, DraftRoute, Submit, TokenOutput, WorkerError
from cluster.router.choice import LIVE, Choice, Phase
from cluster.router.prompt_news import PromptNews
from cluster.router.track import LOST, OK, Track
from cluster.router.workers import WorkerKey
from workers.adapters.adapter import AdapterName

NO_DRAFTS = "none"  # of `SamplingParams.speculation`
PREEMPTED = "preempted"  # the code of a worker that asks for a new attempt through no fault of its own
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Choices that wait for one attempt: all of them at first, then each by itself with the tokens it has."""

    choices: tuple[int, ...]
    output_token_ids: tuple[int, ...] = ()
    not_before_s: float = 0.0


class Lifecycle:
    """One request. `sampling` has n, max_tokens and seed set; `grammar` as in `Submit`; `track`: notes what happens."""

    def __init__(
        self,
        *,
        request_id: str,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParams,
        deadline_s: float,
        max_retries: int,
        grammar: str = "",
        adapter: AdapterName | None = None,
        track: Track | None = None,
    ) -> None:
        self.request_id = request_id
        self.track = track
        self.deadline_s = deadline_s
        self.adapter = adapter  # None: the model as it is
        self.failure: BatonError | None = None
        self.excluded: set[WorkerKey] = set()  # workers that failed this request
        self.num_retries = 0
        self._prompt_token_ids = prompt_token_ids
        self._sampling = SamplingParams()
        self._sampling.CopyFrom(sampling)
        self._sampling.ClearField("stop")  # stop strings are found by the ingress
        self._grammar = grammar
        self._max_retries = max_retries
        self._choices = [Choice(number=number) for number in range(max(sampling.n, 1))]
        self._prompt = PromptNews(len(prompt_token_ids)) if sampling.HasField("prompt_logprobs") else None
        self._num_attempts = 0
        self._known_to: set[WorkerKey] = set()
        self._aborts: list[tuple[WorkerKey, Abort]] = []

    @property
    def wants_drafts(self) -> bool:
        """Whether its tokens may be guessed ahead."""
        return self._sampling.speculation != NO_DRAFTS

    @property
    def reads_from(self) -> int | None:
        """How many leading tokens an attempt may take from a prefix cache, where that is bounded."""
        if self._prompt is None or self._prompt.is_whole:
            return None
        return self._prompt.num_delivered - 1

    @property
    def finished(self) -> bool:
        return all(choice.phase is Phase.FINISHED for choice in self._choices)

    def phase(self, choice: int) -> Phase:
        return self._choices[choice].phase

    def tokens(self, choice: int) -> Sequence[int]:
        """Output tokens delivered so far; borrowed, not to be changed."""
        return self._choices[choice].tokens

    def finish_reasons(self) -> list[FinishReason]:
        return [choice.finish_reason for choice in self._choices]

    def workers(self) -> set[WorkerKey]:
        """Those the loss of which would start a new attempt."""
        return set().union(*(choice.workers() for choice in self._choices))

    def launches(self) -> list[Launch]:
        """What waits for a route; each is to be answered with `dispatch`, at its time or later."""
        queued = tuple(choice.number for choice in self._choices if choice.phase is Phase.QUEUED)
        first = [Launch(choices=queued)] if queued else []
        return first + [
            Launch(choices=(choice.number,), output_token_ids=tuple(choice.tokens), not_before_s=choice.not_before_s)
            for choice in self._choices
            if choice.phase is Phase.RETRYING
        ]

    def take_aborts(self) -> list[tuple[WorkerKey, Abort]]:
        """Messages to send; a worker that is gone needs none."""
        aborts, self._aborts = self._aborts, []
        return aborts

    def drafts(self) -> set[WorkerKey]:
        """Those that draft for it; their loss costs time alone."""
        return {choice.draft for choice in self._choices if choice.phase in LIVE and choice.draft is not None}

    def dispatch(
        self,
        launch: Launch,
        *,
        prefill: WorkerKey | None,
        route: DecodeRoute,
        now_s: float,
        draft: DraftRoute | None = None,
    ) -> Submit:
        """Starts an attempt; the message goes to `prefill`, or to the decode worker of `route` when that is None."""
        decode = WorkerKey(route.worker_id, route.incarnation)
        drafter = WorkerKey(draft.worker_id, draft.incarnation) if draft is not None else None
        attempt = self._num_attempts
        self._num_attempts += 1
        self._known_to.update(key for key in (prefill, decode) if key is not None)
        for number in launch.choices:
            choice = self._choices[number]
            self.num_retries += choice.phase is Phase.RETRYING
            choice.move(Phase.DISPATCHED)
            choice.attempt, choice.prefill, choice.decode, choice.draft = attempt, prefill, decode, drafter
            choice.num_inherited = len(choice.tokens)
        if self._prompt is not None and self._prompt.is_whole:
            self._sampling.ClearField("prompt_logprobs")
        return Submit(
            request_id=self.request_id,
            attempt=attempt,
            prompt_token_ids=self._prompt_token_ids,
            choices=[ChoiceStart(choice=number, output_token_ids=launch.output_token_ids) for number in launch.choices],
            sampling=self._sampling,
            timeout_s=max(self.deadline_s - now_s, 0.0),
            decode=route if prefill is not None else None,
            draft=draft,
            grammar=self._grammar,
            adapter=Adapter(name=self.adapter.name, hash=self.adapter.content_hash) if self.adapter else None,
            num_prompt_logprobs=self._prompt.num_delivered if self._prompt is not None else 0,
        )

    def accept(self, output: TokenOutput, sender: WorkerKey, now_s: float) -> list[TokenOutput]:
        """What may be delivered now, in order; takes ownership of `output`."""
        if output.choice >= len(self._choices):
            return []
        choice = self._choices[output.choice]
        if choice.phase not in LIVE or output.attempt != choice.attempt:
            return []
        track = self.track
        if output.finish_reason == FINISH_REASON_ERROR:
            if choice.has_left(sender):
                return []
            if track is not None:
                track.attempt_ended(output.attempt, output.error.code, output.error.message, now_s)
            return self._end_attempt(choice, output.error, sender, now_s)
        if self._prompt is not None:
            self._prompt.cut(output)
        if track is None:
            return choice.accept(output)
        if output.num_cached_tokens or output.HasField("trace"):
            track.heard(output, sender.worker_id, now_s)
        delivered = choice.accept(output)
        track.wrote(delivered, now_s)
        if choice.phase is Phase.FINISHED:
            track.attempt_ended(choice.attempt, OK, "", now_s)
        return delivered

    def lose(self, worker: WorkerKey, reason: str, now_s: float, *, is_meant: bool = False) -> list[TokenOutput]:
        """The worker or the stream to it is gone: what depends on it starts anew, elsewhere and at once.

        Args:
            is_meant: It had been drained: no fault, that would count towards `max_retries`.
        """
        self._known_to.discard(worker)
        hit = [choice for choice in self._choices if worker in choice.workers()]
        if not hit:
            return []
        self.excluded.add(worker)
        self._abort_attempts(hit, without=worker)
        for choice in hit:
            if self.track is not None:
                self.track.attempt_ended(choice.attempt, LOST, f"{worker.worker_id}: {reason}", now_s)
            choice.num_losses += not is_meant
            choice.num_fruitless = 0
            choice.not_before_s = now_s
        return self._retry(hit, f"{worker.worker_id}: {reason}")

    def abort_choice(self, number: int) -> None:
        """The caller has ended this choice itself: nothing more of it is delivered. Idempotent."""
        choice = self._choices[number]
        if choice.phase is not Phase.FINISHED:
            self._abort_attempts([choice])
            choice.finish(FINISH_REASON_ABORT)

    def fail(self, error: BatonError) -> None:
        """Ends every unfinished choice with `error`. Idempotent."""
        if not self.finished:
            self.failure = error
            self._end_all(FINISH_REASON_ERROR)

    def end(self) -> None:
        """The caller is gone. Idempotent; one abort to every worker that knew the request."""
        if not self.finished:
            self._end_all(FINISH_REASON_ABORT)

    def _end_all(self, reason: FinishReason) -> None:
        self._aborts = [
            (key, Abort(request_id=self.request_id, attempt=max(self._num_attempts - 1, 0)))
            for key in sorted(self._known_to)
        ]
        for choice in self._choices:
            if choice.phase is not Phase.FINISHED:
                choice.finish(reason)

    def _end_attempt(self, choice: Choice, error: WorkerError, sender: WorkerKey, now_s: float) -> list[TokenOutput]:
        """A worker gave the attempt up."""
        if not error.retryable:
            self.fail(from_code(error.code, error.message))
            return []
        if error.code != PREEMPTED:
            choice.num_losses += 1
            self.excluded |= {sender} | choice.workers()  # prefill may speak of a hand-over that decode broke
        fruitful = len(choice.tokens) > choice.num_inherited
        choice.num_fruitless = 0 if fruitful else choice.num_fruitless + 1
        backoff_s = min(FIRST_BACKOFF_S * 2.0 ** (choice.num_fruitless - 1), MAX_BACKOFF_S)
        choice.not_before_s = now_s if fruitful else now_s + backoff_s
        self._abort_attempts([choice], without=sender)
        return self._retry([choice], f"{sender.worker_id}: {error.message}")

    def _abort_attempts(self, choices: Iterable[Choice], without: WorkerKey | None = None) -> None:
        """Tells the workers of the live attempts, in one message per worker and attempt."""
        groups: dict[tuple[WorkerKey, int], list[int]] = {}
        for choice in choices:
            for key in sorted(choice.workers() - {without}):
                groups.setdefault((key, choice.attempt), []).append(choice.number)
        for (key, attempt), numbers in groups.items():
            abort = Abort(request_id=self.request_id, attempt=attempt, choices=numbers)
            self._aborts.append((key, abort))

    def _retry(self, choices: Iterable[Choice], reason: str) -> list[TokenOutput]:
        """Moves lost choices on: to their end if they have all their tokens, else to a new attempt if one is left."""
        ended = []
        for choice in choices:
            choice.early.clear()
            last = self._missing_end(choice)
            if last is not None:
                choice.finish(last.finish_reason)
                ended.append(last)
            elif choice.num_losses > self._max_retries:
                text = f"lost {choice.num_losses} times (router.max_retries is {self._max_retries}), last by {reason}"
                self.fail(UnavailableError(f"request {self.request_id} was {text}"))
                break
            else:
                choice.move(Phase.RETRYING)
        return ended

    def _missing_end(self, choice: Choice) -> TokenOutput | None:
        """The final output of a choice whose last token came and whose finish reason was lost."""
        num_tokens = len(choice.tokens)
        end = TokenOutput(request_id=self.request_id, choice=choice.number, attempt=choice.attempt, index=num_tokens)
        last = choice.tokens[-1] if choice.tokens else None
        if last in self._sampling.stop_token_ids and num_tokens > self._sampling.min_tokens:
            end.finish_reason, end.stop_reason = FINISH_REASON_STOP, str(last)
            return end
        if num_tokens >= self._sampling.max_tokens and self.reads_from is None:
            end.finish_reason = FINISH_REASON_LENGTH
            return end
        return None
