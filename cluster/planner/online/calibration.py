"""What workers' steps really take: corrects a profile's costs, or takes their place where there is none.

Times are of steps, of which workers count number, tokens and seconds, not of requests: a queue makes no step slower.
Corrections are bounded and damped; workers that have just come are left out, since their first steps are slow.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.contracts.latency import LatencyModel, PromptChunk
from cluster.planner.online.observation import SeenWorker, StepCounts
from workers.spec import Role

MIN_STEPS = 10  # of a kind, in all workers, between two looks
MAX_FACTOR = 5.0  # measured / known, and its reverse
MAX_EXTRA_SHARE = 0.5  # of the TTFT limit that may be the time around steps
DAMPING = 0.4  # of a correction, what of the newest look's is taken
NUM_LOOKS = 20  # that a fit is made of
GROWING = {"prompts": 0.8, "decodes": 0.2}  # share of a step's time that grows with its tokens, until that is seen
RIDGE = 0.25  # how sure that is, as a spread of tokens relative to their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """
    Attributes:
        prompts, decodes: Factors on steps with prompts, and on those of decodes alone.
        extra_s: From arrival to the worker and back to the client, beyond what is known.
    """

    prompts: float = 1.0
    decodes: float = 1.0
    extra_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Corrected:
    """`latency`, steps with prompts and others longer by a factor each."""

    latency: LatencyModel
    correction: Correction

    @property
    def pipeline_stages(self) -> int:
        return self.latency.pipeline_stages

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        factor = self.correction.prompts if prompts else self.correction.decodes
        return factor * self.latency.step_s(prompts, num_decodes, num_context)

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return self.correction.decodes * self.latency.decode_steps_s(num_decodes, num_context, num_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLatency:
    """Steps as straight lines over their tokens; the length of contexts is not told apart."""

    prompt_s: float  # every step with prompts
    token_s: float  # each prompt token
    decode_s: float  # every step with decodes
    sequence_s: float  # each decode

    @property
    def pipeline_stages(self) -> int:
        return 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        base_s = max(self.prompt_s if prompts else 0.0, self.decode_s if num_decodes else 0.0)
        num_tokens = sum(chunk.num_tokens for chunk in prompts)
        return base_s + self.token_s * num_tokens + self.sequence_s * num_decodes

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        return num_steps * self.step_s((), num_decodes, num_context)


@dataclass(frozen=True, slots=True)
class _Mean:
    """Of the steps of one kind between two looks."""

    num_tokens: float
    step_s: float


@dataclass(slots=True, kw_only=True)
class Calibration:
    """Args:
    latency: Of each role's workers, known beforehand; empty: nothing is known.
    drafts_apart: The simulation drafts; else accepted drafts are steps that take less time.
    """

    latency: Mapping[Role, LatencyModel] = field(default_factory=dict)
    drafts_apart: bool = False
    correction: Correction = Correction()
    _before: dict[tuple[str, Role], StepCounts] = field(default_factory=dict)
    _prompts: deque[_Mean] = field(default_factory=lambda: deque(maxlen=NUM_LOOKS))
    _decodes: deque[_Mean] = field(default_factory=lambda: deque(maxlen=NUM_LOOKS))

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to simulate with."""
        return bool(self.latency) or bool(self._prompts and self._decodes)

    def latency_of(self, role: Role) -> LatencyModel:
        known = self.latency.get(role)
        if known is not None:
            return Corrected(known, self.correction)
        prompt_s, token_s = _line(self._prompts, GROWING["prompts"])
        decode_s, sequence_s = _line(self._decodes, GROWING["decodes"])
        return SeenLatency(prompt_s=prompt_s, token_s=token_s, decode_s=decode_s, sequence_s=sequence_s)

    def learn(self, workers: Sequence[SeenWorker], mean_context: float) -> None:
        """Of the steps since the last look.

        Args:
            mean_context: Tokens of a sequence that decodes.
        """
        news = {worker.worker_id: self._news(worker) for worker in workers if worker.is_ready}
        self._before = {(worker.worker_id, worker.role): worker.counts for worker in workers if worker.is_ready}
        by_role: dict[Role, StepCounts] = {}
        for worker in workers:
            if (new := news.get(worker.worker_id)) is not None:
                by_role[worker.role] = by_role.get(worker.role, StepCounts()).plus(new)
        self._learn_decodes(by_role, mean_context)
        self._learn_prompts(by_role, mean_context)

    def tell_extra(self, extra_s: float, limit_s: float) -> None:
        """By how much the first token came later than simulated, where no queue did that."""
        before_s = self.correction.extra_s
        now_s = min(max(before_s + DAMPING * extra_s, 0.0), MAX_EXTRA_SHARE * limit_s)
        self.correction = Correction(prompts=self.correction.prompts, decodes=self.correction.decodes, extra_s=now_s)

    def _news(self, worker: SeenWorker) -> StepCounts | None:
        before = self._before.get((worker.worker_id, worker.role))
        return worker.counts.since(before) if before is not None else None

    def _learn_prompts(self, by_role: Mapping[Role, StepCounts], mean_context: float) -> None:
        """Of prefill workers, whose steps hold nothing else, if they read; of others decodes are part of the step."""
        for role in (Role.PREFILL, Role.MIXED, Role.DECODE):
            counts = by_role.get(role)
            if counts is None or counts.num_prompt_steps < MIN_STEPS:
                continue
            num_tokens = counts.num_prompt_step_tokens / counts.num_prompt_steps
            step_s = counts.prompt_steps_s / counts.num_prompt_steps
            num_decodes = self._decodes[-1].num_tokens if role.decodes and self._decodes else 0.0
            beside_s = _line(self._decodes, GROWING["decodes"])[1] * num_decodes if num_decodes else 0.0
            self._prompts.append(_Mean(num_tokens, max(step_s - beside_s, step_s / 2)))
            if (known := self.latency.get(role)) is not None:
                chunk = PromptChunk(max(round(num_tokens), 1), 0)
                expected_s = known.step_s((chunk,), round(num_decodes), round(num_decodes * mean_context))
                factor = _damped(self.correction.prompts, step_s / expected_s)
                self.correction = Correction(
                    prompts=factor, decodes=self.correction.decodes, extra_s=self.correction.extra_s
                )
            return

    def _learn_decodes(self, by_role: Mapping[Role, StepCounts], mean_context: float) -> None:
        for role in (Role.DECODE, Role.MIXED):
            counts = by_role.get(role)
            if counts is None or counts.num_decode_steps < MIN_STEPS:
                continue
            num_decodes = max(counts.num_decode_step_sequences / counts.num_decode_steps, 1.0)
            step_s = counts.decode_steps_s / counts.num_decode_steps
            if not self.drafts_apart:
                step_s /= 1 + counts.num_accepted / (num_decodes * counts.num_decode_steps)
            self._decodes.append(_Mean(num_decodes, step_s))
            if (known := self.latency.get(role)) is not None and not (self.drafts_apart and counts.num_drafted):
                expected_s = known.step_s((), round(num_decodes), round(num_decodes * mean_context))
                factor = _damped(self.correction.decodes, step_s / expected_s)
                self.correction = Correction(
                    prompts=self.correction.prompts, decodes=factor, extra_s=self.correction.extra_s
                )
            return


def _damped(before: float, now: float) -> float:
    bounded = min(max(now, 1 / MAX_FACTOR), MAX_FACTOR)
    return float(before ** (1 - DAMPING) * bounded**DAMPING)


def _line(means: Sequence[_Mean], growing: float) -> tuple[float, float]:
    """Seconds of a step, and of each of its tokens, both >= 0: least squares, drawn towards `growing`'s share."""
    count = len(means)
    mean_x, mean_y = sum(one.num_tokens for one in means) / count, sum(one.step_s for one in means) / count
    spread = sum((one.num_tokens - mean_x) ** 2 for one in means) / count
    together = sum((one.num_tokens - mean_x) * (one.step_s - mean_y) for one in means) / count
    prior, sure = growing * mean_y / mean_x, (RIDGE * mean_x) ** 2
    slope = min(max((together + sure * prior) / (spread + sure), 0.0), mean_y / mean_x)
    return mean_y - slope * mean_x, slope
