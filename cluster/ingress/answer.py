"""One prompt's answer: worker outputs in, finished deltas of text out. The final event of every choice is made here.

Stop strings are found here, so a choice may end before its worker knows; the worker is told then, and what it still
sends for that choice is dropped. Closing the generator aborts the request everywhere.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from baton.errors import CancelledError, InternalError, from_code
from baton.v1 import inference_pb2, worker_pb2
from cluster.ingress.chat.choice_reader import ChoiceReader
from cluster.ingress.chat.events import Event
from cluster.ingress.contract import Dispatch
from cluster.ingress.prompt_tokens import PromptReader, PromptToken
from cluster.ingress.stops import StopFinder
from cluster.ingress.tokenizer import Tokenizer
from cluster.router.dispatcher import DispatchRequest
from cluster.router.track import Track
from workers.adapters.adapter import AdapterName

FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptJob:
    """One prompt to answer. Choices are numbered from `first_choice` towards the client, from 0 towards the workers.

    Attributes:
        new_reader: What reads each choice's text; None: it is content as it stands.
        hidden_ids: Special tokens that are left out of the text; None: all.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: inference_pb2.SamplingParams
    stop: tuple[str, ...]
    include_stop: bool
    deadline_s: float  # time.monotonic
    first_choice: int = 0
    grammar: str = ""  # that the answer must follow, as in `Submit`; empty: none
    new_reader: Callable[[], ChoiceReader] | None = None
    hidden_ids: frozenset[int] | None = None
    adapter: AdapterName | None = None  # None: the model as it is
    context_token_ids: Sequence[int] = ()  # that the text goes on after: how a piece of it reads may depend on them


@dataclass(slots=True, kw_only=True)
class Delta:
    """News of one choice. `logprobs` has one entry per token of `token_ids` when asked for, texts not yet filled in."""

    choice: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[inference_pb2.TokenLogprobs] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # where each token's text begins in the answer, in characters
    finish_reason: inference_pb2.FinishReason = inference_pb2.FINISH_REASON_UNSPECIFIED
    stop_reason: str = ""  # the stop string, or the stop token id in decimal
    # The next tokens of the prompt, when asked for, and the first one's place: then there is nothing else.
    prompt: list[PromptToken] | None = None
    prompt_start: int = 0
    events: Sequence[Event] | None = None  # what a parser makes of the text; None: it is content as it stands


@dataclass(slots=True)
class TokenUsage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's


class StreamedAnswer:
    def __init__(
        self, dispatcher: Dispatch, tokenizer: Tokenizer, job: PromptJob, usage: TokenUsage, track: Track | None = None
    ) -> None:
        """
        Args:
            usage: Of a whole call; what this answer uses is added.
            track: Notes what becomes of it.
        """
        self._usage = usage
        self._num_cached_tokens = 0
        usage.prompt_tokens += len(job.prompt_token_ids)
        self._dispatcher = dispatcher
        self._job = job
        self._track = track
        num_choices = job.sampling.n
        self._choices = [_Choice(job, tokenizer, choice) for choice in range(num_choices)]
        self._num_open = num_choices
        self._prompt = PromptReader(job.prompt_token_ids) if job.sampling.HasField("prompt_logprobs") else None

    async def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """Deltas in order per choice, the last of each with its finish reason. Raises: BatonError."""
        request = DispatchRequest(
            request_id=self._job.request_id,
            prompt_token_ids=self._job.prompt_token_ids,
            sampling=self._job.sampling,
            deadline_s=self._job.deadline_s,
            grammar=self._job.grammar,
            adapter=self._job.adapter,
            track=self._track,
        )
        async with aclosing(self._dispatcher.generate(request)) as batches:
            async for outputs in batches:
                if self._prompt is not None:
                    for start, piece in self._prompt.pieces(outputs):
                        yield [choice.of_prompt(start, piece) for choice in self._choices if not choice.is_finished]
                        await asyncio.sleep(0)  # other streams go on between the pieces of a long prompt
                    outputs = [output for output in outputs if output.token_ids or output.finish_reason]
                    if self._prompt.is_done:
                        self._prompt = None
                deltas = [delta for output in outputs if (delta := self._on_output(output)) is not None]
                if deltas:
                    yield deltas
                if not self._num_open:
                    return
        raise InternalError(f"request {self._job.request_id} ended with {self._num_open} choices open")

    def _on_output(self, output: worker_pb2.TokenOutput) -> Delta | None:
        choice = self._choices[output.choice]
        if choice.is_finished:
            return None
        if output.num_cached_tokens > self._num_cached_tokens:
            self._usage.cached_tokens += output.num_cached_tokens - self._num_cached_tokens
            self._num_cached_tokens = output.num_cached_tokens
        delta = choice.on_output(output)
        self._usage.completion_tokens += len(delta.token_ids)
        if choice.is_finished:
            self._usage.reasoning_tokens += choice.num_reasoning_tokens
            self._num_open -= 1
            if not output.finish_reason and self._num_open:
                self._dispatcher.abort_choice(self._job.request_id, output.choice)
        return delta


class _Choice:
    def __init__(self, job: PromptJob, tokenizer: Tokenizer, choice: int) -> None:
        self.is_finished = False
        self._index = job.first_choice + choice
        self._detokenizer = tokenizer.detokenizer(job.hidden_ids)
        self._stops = StopFinder(job.stop, include=job.include_stop)
        self._has_stops = bool(job.stop)
        self._include_stop = job.include_stop
        self._num_before_stops = job.sampling.min_tokens
        self._num_tokens = 0
        self._reader = job.new_reader() if job.new_reader is not None else None
        self._is_plain = not self._has_stops and self._reader is None
        self.num_reasoning_tokens = 0
        for token_id in job.context_token_ids:
            self._detokenizer.push(token_id)
        self._num_before = self._detokenizer.num_characters

    def of_prompt(self, start: int, tokens: list[PromptToken]) -> Delta:
        return Delta(choice=self._index, prompt=tokens, prompt_start=start)

    def on_output(self, output: worker_pb2.TokenOutput) -> Delta:
        """Raises: BatonError: the worker ended this choice without an answer."""
        reason = output.finish_reason
        if reason == inference_pb2.FINISH_REASON_ERROR:
            raise from_code(output.error.code, output.error.message)
        if reason == inference_pb2.FINISH_REASON_ABORT:
            raise CancelledError(f"request {output.request_id} was aborted by its worker")
        token_ids = output.token_ids
        if self._is_plain and not (reason or output.logprobs) and len(token_ids) == 1:  # nearly every output
            self._num_tokens += 1
            return Delta(choice=self._index, text=self._detokenizer.push(token_ids[0]), token_ids=[token_ids[0]])
        delta = self._text_of(output)
        if self._reader is not None:
            self._read(delta, self._reader)
        return delta

    def _read(self, delta: Delta, reader: ChoiceReader) -> None:
        if reader.is_thinking:
            self.num_reasoning_tokens += len(delta.token_ids)
        delta.events = reader.push(delta.text) if delta.text else ()
        if reader.is_over:
            self.is_finished = True
            delta.finish_reason = delta.finish_reason or inference_pb2.FINISH_REASON_STOP
        if self.is_finished:
            delta.events = [*delta.events, *reader.finish()]

    def _text_of(self, output: worker_pb2.TokenOutput) -> Delta:
        reason, token_ids = output.finish_reason, output.token_ids
        delta = Delta(choice=self._index)
        last = len(token_ids) - 1
        for position, token_id in enumerate(token_ids):
            delta.token_ids.append(token_id)
            if output.logprobs:
                delta.logprobs.append(output.logprobs[position])
                delta.offsets.append(self._detokenizer.num_characters - self._num_before)
            is_stop_token = reason == inference_pb2.FINISH_REASON_STOP and position == last
            if is_stop_token and not self._include_stop:
                break  # the token that ended the answer is counted, its text is not part of it
            if self._push(delta, token_id):
                return delta
        if reason:
            self._finish(delta, output)
        return delta

    def _push(self, delta: Delta, token_id: int) -> bool:
        """Adds one token's text; true when a stop string ended the choice."""
        self._num_tokens += 1
        text = self._detokenizer.push(token_id)
        if not self._has_stops or self._num_tokens <= self._num_before_stops:
            delta.text += text
            return False
        return self._add(delta, text)

    def _add(self, delta: Delta, text: str) -> bool:
        text, stop = self._stops.push(text)
        delta.text += text
        if stop is None:
            return False
        delta.finish_reason, delta.stop_reason = inference_pb2.FINISH_REASON_STOP, stop
        self.is_finished = True
        return True

    def _finish(self, delta: Delta, output: worker_pb2.TokenOutput) -> None:
        self.is_finished = True
        if self._add(delta, self._detokenizer.flush()):
            return
        delta.text += self._stops.release()
        delta.finish_reason, delta.stop_reason = output.finish_reason, output.stop_reason


async def merged(answers: Sequence[StreamedAnswer]) -> AsyncGenerator[list[Delta], None]:
    """The deltas of several prompts' answers as they come; the first error ends all of them."""
    queue: asyncio.Queue[list[Delta] | BaseException | None] = asyncio.Queue(maxsize=len(answers))
    tasks = [asyncio.create_task(_feed(answer, queue)) for answer in answers]
    num_open = len(tasks)
    try:
        while num_open:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(answer: StreamedAnswer, queue: "asyncio.Queue[list[Delta] | BaseException | None]") -> None:
    try:
        async with aclosing(answer.deltas()) as deltas:
            async for batch in deltas:
                await queue.put(batch)
    except Exception as error:  # carried to the reader of the queue, which raises it
        await queue.put(error)
    else:
        await queue.put(None)
