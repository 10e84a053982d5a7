"""One ingress replica's work, free of HTTP and gRPC: requests in, running answers out.

Owns the checks against the model that is served, the deadline of every request, and what is measured about it.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from baton.errors import BatonError, InternalError, UnavailableError
from cluster.config.schema import RouterConfig, StructuredConfig
from cluster.contracts.demand import OpenRequest
from cluster.contracts.finished import CANCELLED, OK, FinishedRequest
from cluster.contracts.slo import SLO
from cluster.doors.guard import Guard, Pass
from cluster.ingress.answer import FINISH_REASONS, Delta, PromptJob, StreamedAnswer, TokenUsage
from cluster.ingress.answer import merged as merged_answers
from cluster.ingress.chat.choice_reader import ChoiceReader
from cluster.ingress.chat.model_formats import ModelFormats
from cluster.ingress.chat.prompts import ChatPrompt, render_prompt
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.contract import AdapterLoading, Dispatch
from cluster.ingress.errors import model_not_found
from cluster.ingress.metrics import Metrics
from cluster.ingress.openai import Prompt
from cluster.ingress.sampling import (
    Limits,
    SamplingOptions,
    check_answers,
    check_options,
    check_prompt,
    check_prompt_logprobs,
    check_token_ids,
    to_message,
)
from cluster.ingress.structured.compiler import GrammarCompiler
from cluster.ingress.structured.output import StructuredOutput
from cluster.ingress.structured.vocabulary import Vocabulary
from cluster.ingress.tokenizer import Tokenizer
from cluster.ingress.tracing.record import CallRecord
from cluster.ingress.tracing.recording import Heading, new_record
from cluster.ingress.tracing.ring import Ring
from cluster.ingress.tracing.visit import Visits, current_visit, phase
from cluster.ingress.weight import is_light
from workers.adapters.adapter import AdapterName

OnFinished = Callable[[FinishedRequest], None]
NUM_CONTEXT = 16  # of an echoed prompt's tokens: more than a character, or a decoder's window, has


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of a client, checked: its prompts' jobs and when it came."""

    request_id: str
    model: str  # the name to answer with: the model's, or an adapter's
    jobs: tuple[PromptJob, ...]
    route: str
    started_s: float

    @property
    def num_choices(self) -> int:
        return sum(job.sampling.n for job in self.jobs)

    def read_by(self, new_reader: Callable[[], ChoiceReader], hidden_ids: frozenset[int] | None) -> "Call":
        """The same call, of whose answers events are made."""
        jobs = tuple(replace(job, new_reader=new_reader, hidden_ids=hidden_ids) for job in self.jobs)
        return replace(self, jobs=jobs)

    def showing_special_tokens(self) -> "Call":
        """The same call, of whose answers no token is left out."""
        return replace(self, jobs=tuple(replace(job, hidden_ids=frozenset()) for job in self.jobs))


class Service:
    def __init__(
        self,
        *,
        dispatcher: Dispatch,
        tokenizer: Tokenizer,
        model: str,
        router: RouterConfig,
        defaults: Mapping[str, Any] | None = None,
        aliases: Collection[str] = (),
        metrics: Metrics | None = None,
        grammars: GrammarCompiler | None = None,
        make_guard: Callable[[Metrics], Guard] | None = None,
        formats: ModelFormats | None = None,
        adapters: AdapterLoading | None = None,
        structured: StructuredConfig | None = None,
        ring: Ring | None = None,
        visits: Visits | None = None,
        slo: SLO | None = None,
        vllm_names: bool = False,
    ) -> None:
        """
        Args:
            aliases: Further names of the model.
            metrics: That this model's calls count in; None: its own.
            grammars: That other models compile with too; None: its own.
            ring: Of the calls that it remembers; None: one of its own.
            visits: Which are told of each request and call; None: those of a server that traces nothing.
            formats: How the model writes calls and thinking; None: as its chat templates say.
            defaults: The model's sampling values for what a request leaves out: see `generation_defaults`.
            make_guard: None: whoever comes is let in.
            adapters: None: none is loaded or unloaded while it serves.
            structured: Bounds of the grammars that requests ask for; None: the defaults.
            slo: That requests are measured by; None: that of `metrics`.
            vllm_names: Of metrics, beside ours.
        """
        self.dispatcher = dispatcher
        self.tokenizer = tokenizer
        self.model = model
        self.shown = model  # where versions of it are told apart: `Services` says
        self.slo = slo
        self.defaults = dict(defaults or {})
        self.created = int(time.time())
        self.aliases = frozenset(aliases)
        self.metrics = metrics or Metrics(
            dispatcher.states,
            counters=lambda: {model: dispatcher.counters},
            slo=slo,
            vllm_names=vllm_names,
        )
        self.guard = make_guard(self.metrics) if make_guard is not None else None
        self.adapters = adapters
        self.ring = ring if ring is not None else Ring()
        self.visits = visits or Visits()
        self.on_finished: list[OnFinished] = []  # each is told of every call that ended
        self.open_calls: set[OpenCall] = set()  # that wait or are being answered
        self._router = router
        self._formats = formats or ModelFormats(tokenizer)
        self._shares_grammars = grammars is not None
        self._grammars = grammars or GrammarCompiler(structured or StructuredConfig())

    @property
    def num_open(self) -> int:
        """Calls that wait or are being answered."""
        return len(self.open_calls)

    @property
    def names(self) -> list[str]:
        """Of the model and of its adapters, as requests may give them."""
        return [self.model, *sorted(self.dispatcher.adapters)]

    def close(self) -> None:
        """Ends the processes that compile its grammars alone."""
        if not self._shares_grammars:
            self._grammars.close()

    def find_adapter(self, name: str | None) -> AdapterName | None:
        """What a request's `model` asks for; None: the model as it is. Raises: ModelNotFoundError."""
        if not name or name == self.model or name in self.aliases:
            return None
        content_hash = self.dispatcher.adapters.get(name)
        if content_hash is None:
            raise model_not_found(name, self.names)
        return AdapterName(name, content_hash)

    def limits(self) -> Limits:
        """Raises: UnavailableError: no worker has said yet how long a request may be."""
        max_model_len = self.dispatcher.max_model_len
        if not max_model_len:
            raise UnavailableError("no worker has reported to this ingress yet; try again in a second")
        return Limits(
            max_model_len=max_model_len,
            max_request_tokens=self.dispatcher.max_request_tokens or max_model_len,
            vocab_size=self.tokenizer.vocab_size,
        )

    async def token_ids(self, prompt: Prompt, limits: Limits) -> Sequence[int]:
        """Raises: InvalidRequestError: an id outside the vocabulary."""
        if prompt.text is not None:
            with phase("tokenize"):
                return await self.tokenizer.encode_async(prompt.text, max_tokens=limits.max_tokens)
        check_token_ids(prompt.token_ids, limits, "prompt")
        return prompt.token_ids

    async def chat_call(
        self,
        request: ChatRequest,
        *,
        model: str | None,
        route: str,
        prompt_field: str = "messages",
        timeout_s: float = 0.0,
        stream: bool = True,
        parse: bool = True,
    ) -> Call:
        """A chat as one prompt.

        Args:
            model: As the request names it.
            prompt_field: What the request calls its messages, for errors.
            stream: The client sees the answer as it comes; else a call that breaks is content as a whole.
            parse: Deltas get events where the model has formats; else they are text alone, special tokens left out.
        Raises: InvalidRequestError: there is no such chat template, it refuses the messages, or there are tools and
            it is not known how this model calls them; and as `call`.
        """
        with phase("render"):
            prompt = await self._rendered(request)
            reading = self._formats.reading(request, prompt, stream=stream)
        with phase("tokenize"):
            token_ids = await self.tokenizer.encode_async(
                prompt.text,
                add_special_tokens=request.add_special_tokens,
                rendered=True,
                name=prompt_field,
                max_tokens=self.limits().max_tokens,
            )
        grammar = await self.grammar(
            reading.form,
            reasoning_ends=reading.reasoning_ends,
            reasoning_begins=reading.reasoning_begins,
            shown_ids=reading.shown_ids,
        )
        call = self.call(
            [token_ids],
            request.options,
            model=model,
            route=route,
            prompt_field=prompt_field,
            timeout_s=timeout_s,
            grammar=grammar,
        )
        if not parse or reading.new_reader is None:
            return call
        return call.read_by(reading.new_reader, reading.hidden_ids)

    async def chat_token_ids(self, request: ChatRequest, *, max_tokens: int | None = None) -> list[int]:
        """The prompt that `chat_call` would make. Raises: InvalidRequestError."""
        prompt = await self._rendered(request)
        return await self.tokenizer.encode_async(
            prompt.text,
            add_special_tokens=request.add_special_tokens,
            rendered=True,
            name="messages",
            max_tokens=max_tokens,
        )

    async def _rendered(self, request: ChatRequest) -> ChatPrompt:
        """Templates are programs of Python: a long chat goes through one on a thread, so that streams go on."""
        if is_light((request.messages, [tool.parameters for tool in request.tools], request.template_kwargs)):
            return render_prompt(request, self.tokenizer)
        return await asyncio.to_thread(render_prompt, request, self.tokenizer)

    async def grammar(
        self,
        form: StructuredOutput | None,
        *,
        reasoning_ends: str | None = None,
        reasoning_begins: str | None = None,
        shown_ids: Collection[int] = (),
    ) -> str:
        """The text of a grammar for `call`; empty where an answer may have any form.

        Args:
            reasoning_ends, reasoning_begins: As of `grammar_text`.
            shown_ids: Special tokens that are text of this answer: they stand for what they say.
        Raises: InvalidRequestError: the form cannot be followed; OverloadedError.
        """
        if form is None:
            return ""
        specials = {self.tokenizer.token_text(token_id): token_id for token_id in shown_ids}
        vocabulary = Vocabulary(specials=specials, ends=self.tokenizer.end_ids.intersection(shown_ids))
        with phase("grammar"):
            return await self._grammars.text(
                form, reasoning_ends=reasoning_ends, reasoning_begins=reasoning_begins, vocabulary=vocabulary
            )

    def call(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        *,
        model: str | None,
        route: str,
        prompt_field: str = "prompt",
        timeout_s: float = 0.0,
        grammar: str = "",
    ) -> Call:
        """Checks a request whose prompts are tokenized.

        Args:
            model: As the request names it; None or empty: the model as it is.
            timeout_s: 0: the server's; a longer one is cut to it.
            grammar: What `grammar` made, for all prompts.
        Raises: InvalidRequestError, UnavailableError.
        """
        adapter = self.find_adapter(model)
        limits = self.limits()
        check_options(options, limits)
        check_answers(len(prompts), options)
        check_prompt_logprobs(sum(map(len, prompts)), options)
        now_s = time.monotonic()
        bound_s = self._router.request_timeout_s
        deadline_s = now_s + (min(timeout_s, bound_s) if timeout_s > 0 else bound_s)
        request_id = uuid.uuid4().hex
        jobs: list[PromptJob] = []
        for index, token_ids in enumerate(prompts):
            check_prompt(len(token_ids), limits, prompt_field, is_all=options.writes_nothing)
            if self.tokenizer.exceeds_model:
                check_token_ids(token_ids, limits, prompt_field)
            sampling = to_message(options, len(token_ids), limits, self.defaults)
            job = PromptJob(
                request_id=request_id if len(prompts) == 1 else f"{request_id}-{index}",
                prompt_token_ids=token_ids,
                sampling=sampling,
                stop=options.stop,
                include_stop=options.include_stop,
                deadline_s=deadline_s,
                first_choice=index * sampling.n,
                adapter=adapter,
                context_token_ids=token_ids[-NUM_CONTEXT:] if options.echo else (),
                grammar=grammar,
            )
            jobs.append(job)
        return Call(request_id=request_id, model=model or self.model, jobs=tuple(jobs), route=route, started_s=now_s)

    def run(self, call: Call, admitted: Pass | None = None) -> "OpenCall":
        """`admitted`: what counts its tokens; whether its key is for the model, `Services` has seen."""
        return OpenCall(self, call, admitted)


class OpenCall:
    """A call being answered; measured from start to end whatever the end is."""

    def __init__(self, service: Service, call: Call, admitted: Pass | None = None) -> None:
        self._usage = TokenUsage()
        self._ring = service.ring
        self._model = service.shown if call.model in (service.model, *service.aliases) else call.model
        self._record = _record(call, service.shown)
        self._answers = [
            StreamedAnswer(service.dispatcher, service.tokenizer, job, self._usage, track)
            for job, track in zip(call.jobs, self._record.tracks, strict=True)
        ]
        self._call = call
        self._pass = admitted
        self._service = service
        self._metrics = service.metrics
        self._of_model = service.metrics.of(self._model)
        self._num_unfinished = call.num_choices
        self._on_finished = service.on_finished
        self._open_calls = service.open_calls
        self._first_s = 0.0  # when its first token was sent; 0: none was
        self._last_s = [0.0] * call.num_choices

    @property
    def usage(self) -> TokenUsage:
        """By now, of all answers."""
        return self._usage

    @property
    def seen(self) -> OpenRequest:
        usage, started_s = self.usage, self._call.started_s
        return OpenRequest(
            arrived_s=started_s,
            num_prompt_tokens=usage.prompt_tokens,
            num_cached_tokens=usage.cached_tokens,
            num_output_tokens=usage.completion_tokens,
            ttft_s=self._first_s - started_s if self._first_s else None,
        )

    async def deltas(self) -> AsyncGenerator[list[Delta], None]:
        """Raises: BatonError, whatever the fault was."""
        metrics = self._metrics
        if self._pass is not None:
            self._pass.use_tokens(self.usage.prompt_tokens)
        self._open_calls.add(self)
        metrics.open.inc()
        metrics.waiting.inc()
        has_begun = False
        status, fault = CANCELLED, ""  # what it stays when the client goes away
        self._ring.begin(self._record)
        try:
            answers = self._answers
            async with aclosing(answers[0].deltas() if len(answers) == 1 else merged_answers(answers)) as batches:
                async for batch in batches:
                    if not has_begun:
                        has_begun = True
                        metrics.waiting.dec()
                    self._measure(batch)
                    yield batch
            status = OK
        except BatonError as error:
            status, fault = error.code, error.message
            if self._pass is not None and error.retryable and not has_begun:
                self._pass.use_tokens(-self.usage.prompt_tokens)  # shed, or lost: the client has nothing of it
            raise
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            status, fault = InternalError.code, repr(error)
            raise InternalError(f"request {self._call.request_id} failed: {error!r}") from error
        finally:
            if not has_begun:
                metrics.waiting.dec()
            metrics.open.dec()
            self._record.end(status, fault, time.monotonic())
            self._open_calls.discard(self)
            self._count(status)
            self._ring.end(self._record)

    def _measure(self, batch: Sequence[Delta]) -> None:
        now_s, of_model = time.monotonic(), self._of_model
        for delta in batch:
            if delta.finish_reason:
                self._record.finish_reasons[delta.choice] = FINISH_REASONS.get(delta.finish_reason, "error")
                self._num_unfinished -= 1
                of_model.finished[delta.finish_reason].inc()
            if not delta.token_ids:
                continue
            num_tokens = len(delta.token_ids)
            of_model.output_tokens.value += num_tokens
            if self._pass is not None:
                self._pass.use_tokens(num_tokens)
            last_s = self._last_s[delta.choice]
            if last_s:
                of_model.itl.observe((now_s - last_s) / num_tokens)
            else:
                self._first_s = self._first_s or now_s
                of_model.ttft.observe(now_s - self._call.started_s)
            self._last_s[delta.choice] = now_s

    def _count(self, status: str) -> None:
        finished = self._finished(status)
        self._metrics.take(finished, self._num_unfinished)
        for tell in self._on_finished:
            tell(finished)

    def _finished(self, status: str) -> FinishedRequest:
        call, usage, now_s = self._call, self.usage, time.monotonic()
        num_gaps = usage.completion_tokens - call.num_choices
        writing_s = max(self._last_s, default=0.0) - self._first_s
        return FinishedRequest(
            request_id=call.request_id,
            model=self._model,
            route=call.route,
            status=status,
            arrived_s=call.started_s,
            ended_s=now_s,
            num_choices=call.num_choices,
            num_prompt_tokens=usage.prompt_tokens,
            num_cached_tokens=usage.cached_tokens,
            num_output_tokens=usage.completion_tokens,
            ttft_s=self._first_s - call.started_s if self._first_s else None,
            tpot_s=writing_s * call.num_choices / num_gaps if self._first_s and num_gaps > 0 else None,
            slo=self._service.slo,
        )


def _record(call: Call, served_model: str) -> CallRecord:
    heading = Heading(call.request_id, call.model, served_model, call.route, call.started_s)
    return new_record(heading, call.jobs, current_visit())
