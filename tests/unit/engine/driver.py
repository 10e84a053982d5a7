"""Engines driven step by step on one thread, with the fake model: what they emit, collected per choice."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from baton.v1 import inference_pb2, worker_pb2
from tests.local_link import local_pair
from workers.engine.drafting import Drafter
from workers.engine.engine import Engine, StepReport
from workers.engine.following import Grammars
from workers.kv_transfer.link import Inbox, Outbox
from workers.model.contract import ModelRunner
from workers.model.fake import FakeRunner
from workers.spec import EngineSpec, KVSpec, Role, WorkerSpec
from workers.speculative.recycling import RecyclingDrafter
from workers.speculative.speculation import DraftedSpeculation

INGRESS = "ingress-0"
OPEN: "list[Driver]" = []  # with links whose threads a test must end


class Runners:
    """How the runners of drivers are made others, in tests of steps that are launched ahead."""

    def __init__(self) -> None:
        self.wrap: Callable[[ModelRunner], ModelRunner] = lambda runner: runner


RUNNERS = Runners()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def make_spec(role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"memory_bytes": 1 << 16, "block_size": 4, "max_batched_tokens": 16} | engine
    return WorkerSpec(
        worker_id=f"{role.value}-0",
        role=role,
        model="fake",
        served_name="fake",
        dtype="float32",
        device="cpu",
        engine=EngineSpec(**settings),  # type: ignore[arg-type]
        kv=KVSpec(lease_s=5.0),
        secret="s",
        fake=True,
    )


def speculating(drafter: Drafter | None, runner: ModelRunner) -> DraftedSpeculation | None:
    """All that is proposed is verified, as far as it fits."""
    if drafter is None:
        return None
    return DraftedSpeculation(
        drafter,
        max_tokens=6,
        max_model_len=runner.max_model_len,
        vocab_size=runner.vocab_size,
        paths_only=runner.num_states > 0,
        watch=drafter.successors if isinstance(drafter, RecyclingDrafter) else None,
    )


class Driver:
    """One engine, or prefill and decode with an in-process link between them."""

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        make_runner: Callable[[WorkerSpec], ModelRunner] = FakeRunner,
        drafter: Drafter | None = None,
        links: tuple[Outbox, Inbox] | None = None,
        make_grammars: Callable[[WorkerSpec, ModelRunner], Grammars | None] = lambda _spec, _runner: None,
    ) -> None:
        """`links`: between the two engines, closed by whoever made them; None: in-process ones."""
        self.route = worker_pb2.DecodeRoute(worker_id="decode-0")
        self.draft: worker_pb2.DraftRoute | None = None  # who drafts for what is submitted
        self.adapter: worker_pb2.Adapter | None = None  # with which it is computed
        self.clock = Clock()
        self.tokens: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)  # by index: prefill's may come late
        self.logprobs: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        self.prompts: dict[str, list[worker_pb2.PromptLogprobs]] = defaultdict(list)  # as they were told
        self.finals: dict[tuple[str, int], list[worker_pb2.TokenOutput]] = defaultdict(list)
        self.engines = [
            Engine(
                runner=runner,
                spec=spec,
                emit=self._take,
                clock=self.clock,
                speculation=speculating(drafter, runner),
                grammars=make_grammars(spec, runner),
            )
            for spec, runner in ((spec, RUNNERS.wrap(make_runner(spec))) for spec in specs)
        ]
        self.links: list[Outbox | Inbox] = []
        self.route = worker_pb2.DecodeRoute(worker_id="decode-0")
        if len(self.engines) == 2:
            prefill, decode = self.engines
            outbox, inbox = links or local_pair(prefill.runner.store, decode.runner.store, kv=specs[0].kv)
            if links is None:
                self.links = [outbox, inbox]
                OPEN.append(self)
            prefill.connect(outbox, None)
            decode.connect(None, inbox)

    def _take(self, report: StepReport) -> None:
        for outputs in report.outputs.values():
            for output in outputs:
                key = (output.request_id, output.choice)
                for offset, token_id in enumerate(output.token_ids):
                    assert output.index + offset not in self.tokens[key], f"{key} token {output.index} twice"
                    self.tokens[key][output.index + offset] = token_id
                for offset, entry in enumerate(output.logprobs):
                    self.logprobs[key][output.index + offset] = entry.sampled.logprob
                if output.HasField("prompt_logprobs"):
                    assert not self.tokens[key], f"{key} tells of its prompt after a token"
                    self.prompts[output.request_id].append(output.prompt_logprobs)
                if output.finish_reason:
                    self.finals[key].append(output)

    def close(self) -> None:
        for link in self.links:
            link.close()

    def submit(
        self, request_id: str, prompt: Sequence[int], *, choices: int = 1, grammar: str = "", **sampling: object
    ) -> None:
        settings = {"max_tokens": 8, "seed": 1, "temperature": 0.0, "n": choices, "ignore_eos": True} | sampling
        submit = worker_pb2.Submit(
            request_id=request_id,
            prompt_token_ids=prompt,
            choices=[worker_pb2.ChoiceStart(choice=choice) for choice in range(choices)],
            sampling=inference_pb2.SamplingParams(**settings),  # type: ignore[arg-type]
            timeout_s=1000.0,
            draft=self.draft,
            grammar=grammar,
            adapter=self.adapter,
        )
        if len(self.engines) == 2:
            submit.decode.CopyFrom(self.route)
        self.engines[0].submit(INGRESS, submit)

    def abort(self, request_id: str, choices: Sequence[int] = ()) -> None:
        for engine in self.engines:
            engine.abort(worker_pb2.Abort(request_id=request_id, attempt=0, choices=choices))

    def step(self) -> None:
        progress = [engine.step() for engine in self.engines]
        if not any(progress):
            time.sleep(0.0005)  # the links' threads are at work
        self.clock.now_s += 0.01

    @property
    def is_clean(self) -> bool:
        """Nothing to do, and no block held."""
        return all(
            engine.is_idle and engine.blocks.num_free_blocks == engine.runner.num_blocks for engine in self.engines
        )

    def run(self, max_steps: int = 3000) -> None:
        """Steps until nothing is left to do, then checks every block."""
        for _ in range(max_steps):
            self.step()
            if all(engine.is_idle for engine in self.engines):
                break
        else:
            raise AssertionError(f"still busy after {max_steps} steps")
        for engine in self.engines:
            engine.blocks.check_integrity()
        assert self.is_clean

    def answer(self, request_id: str, choice: int = 0) -> list[int]:
        """The tokens of one choice, checked to be without gap."""
        by_index = self.tokens[request_id, choice]
        assert sorted(by_index) == list(range(len(by_index)))
        assert len(self.finals[request_id, choice]) == 1, f"{len(self.finals[request_id, choice])} final outputs"
        return [by_index[index] for index in range(len(by_index))]
