"""A dispatcher that answers from a script, and a server that runs the HTTP app on a port of the OS."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from baton.errors import BatonError
from baton.v1 import inference_pb2, worker_pb2
from cluster.config.schema import RouterConfig
from cluster.contracts.tuning import Tuning
from cluster.doors.guard import Guard
from cluster.ingress.metrics import Metrics
from cluster.ingress.service import Service
from cluster.ingress.tokenizer import Tokenizer
from cluster.router.counters import Counters
from cluster.router.dispatcher import DispatchRequest
from cluster.router.handovers import Handovers
from cluster.router.table import Health
from cluster.router.workers import WorkerEntry, WorkerView
from workers.spec import Role

DEMO = Path(__file__).parents[3] / "workers" / "model" / "bundled" / "demo"
EOS = 0
STOP, LENGTH = inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_LENGTH


class FakeDispatcher:
    """Every choice writes `answer` (its number in place of {choice}), then end-of-text; one token per step."""

    def __init__(self, tokenizer: Tokenizer, answer: str = "The best of times {choice}.") -> None:
        self.answer = answer
        self.next_answers: list[str] = []  # to the requests after this one
        self.step_s = 0.0
        self.num_cached_tokens = 0
        self.max_model_len = 2048
        self.max_request_tokens = 1024
        self.adapters: dict[str, str] = {}
        self.failure: BatonError | None = None
        self.failure_after: int | None = None  # steps; None: at once
        self.healthy = Health(ok=True)
        self.views: list[WorkerView] | None = None  # None: one worker that decodes
        self.counters = Counters()
        self.handovers = Handovers()
        self.tunings: list[Tuning] = []
        self.requests: list[DispatchRequest] = []
        self.aborted_choices: list[tuple[str, int]] = []
        self.closed: list[str] = []
        self._tokenizer = tokenizer

    def abort_choice(self, request_id: str, choice: int) -> None:
        self.aborted_choices.append((request_id, choice))

    def tune(self, tuning: Tuning) -> None:
        self.tunings.append(tuning)

    def health(self) -> Health:
        return self.healthy

    def states(self) -> list[WorkerView]:
        if self.views is not None:
            return self.views
        entry = WorkerEntry(worker_id="decode-0", incarnation="a", role=Role.DECODE, address="127.0.0.1:1")
        state = worker_pb2.WorkerState(
            worker_id="decode-0",
            role=worker_pb2.ROLE_DECODE,
            served_name="demo",
            metrics_address="127.0.0.1:2",
            num_blocks=64,
            num_free_blocks=60,
            num_quarantined_blocks=1,
            num_running=3,
            num_waiting=2,
        )
        return [WorkerView(entry=entry, state=state, age_s=0.0, up=True)]

    async def generate(self, request: DispatchRequest) -> AsyncGenerator[list[worker_pb2.TokenOutput], None]:
        self.requests.append(request)
        try:
            if self.failure is not None and self.failure_after is None:
                raise self.failure
            for outputs in self._prompt(request):
                yield outputs
            if not request.sampling.max_tokens:
                yield [
                    worker_pb2.TokenOutput(request_id=request.request_id, choice=choice, finish_reason=LENGTH)
                    for choice in range(request.sampling.n)
                ]
                return
            plans = [self._tokens(request, choice) for choice in range(request.sampling.n)]
            if self.next_answers:
                self.answer = self.next_answers.pop(0)
            for index in range(max(map(len, plans))):
                if self.failure is not None and index == self.failure_after:
                    raise self.failure
                await asyncio.sleep(self.step_s)
                yield [
                    self._output(request, choice, index, plan)
                    for choice, plan in enumerate(plans)
                    if index < len(plan) and (request.request_id, choice) not in self.aborted_choices
                ]
        finally:
            self.closed.append(request.request_id)

    def _prompt(self, request: DispatchRequest) -> Iterator[list[worker_pb2.TokenOutput]]:
        """Three tokens a piece: each has rank 2 and -0.25 times its place, likelier ones -0.125."""
        if not request.sampling.HasField("prompt_logprobs"):
            return
        num_tokens, num_top = len(request.prompt_token_ids), request.sampling.prompt_logprobs
        for start in range(1, num_tokens, 3):
            places = range(start, min(start + 3, num_tokens))
            yield [
                worker_pb2.TokenOutput(
                    request_id=request.request_id,
                    prompt_logprobs=worker_pb2.PromptLogprobs(
                        start=start,
                        logprobs=[-0.25 * place for place in places],
                        ranks=[2 for _ in places],
                        num_top=num_top,
                        top_token_ids=[20 + rank for _ in places for rank in range(num_top)],
                        top_logprobs=[-0.125 for _ in places for _ in range(num_top)],
                    ),
                )
            ]

    def _tokens(self, request: DispatchRequest, choice: int) -> list[int]:
        text = self.answer.replace("{choice}", str(choice))
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        if not request.sampling.ignore_eos:
            tokens.append(EOS)
        return tokens[: request.sampling.max_tokens]

    def _output(self, request: DispatchRequest, choice: int, index: int, plan: Sequence[int]) -> worker_pb2.TokenOutput:
        token_id = plan[index]
        output = worker_pb2.TokenOutput(request_id=request.request_id, choice=choice, index=index, token_ids=[token_id])
        if index == 0:
            output.num_cached_tokens = self.num_cached_tokens
        if index == len(plan) - 1:
            output.finish_reason = STOP if token_id == EOS else LENGTH
        elif token_id in request.sampling.stop_token_ids:
            output.finish_reason, output.stop_reason = STOP, str(token_id)
        if request.sampling.HasField("logprobs"):
            entry = output.logprobs.add()
            entry.sampled.token_id, entry.sampled.logprob = token_id, -0.5
            for rank in range(request.sampling.logprobs):
                entry.top.add(token_id=token_id if rank == 0 else 10 + rank, logprob=-0.5 - rank)
        return output


@cache
def demo_tokenizer() -> Tokenizer:
    return Tokenizer(str(DEMO))


def demo_service(
    defaults: Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    make_guard: Callable[[Metrics], Guard] | None = None,
) -> tuple[Service, FakeDispatcher]:
    """`defaults` are the model's; `tokenizer` replaces the demo's."""
    tokenizer = tokenizer or demo_tokenizer()
    fake = FakeDispatcher(tokenizer)
    service = Service(
        dispatcher=fake,
        tokenizer=tokenizer,
        model="demo",
        router=RouterConfig(),
        defaults=defaults,
        make_guard=make_guard,
    )
    return service, fake


@asynccontextmanager
async def serving(app: FastAPI, tls: Callable[..., Any] | None = None, protocol: Any = "auto") -> AsyncIterator[str]:
    """The app's address on a port that the OS chose. `tls`: uvicorn's ssl_context_factory; `protocol`: its http."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # connections queue from here on, so nobody has to wait for the server to be up
    config = uvicorn.Config(app, http=protocol, log_level="warning", lifespan="off", ssl_context_factory=tls)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
