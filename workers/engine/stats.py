"""Counters and moving averages of one engine, of its own thread; others read them in a `LoadReport`."""

from dataclasses import dataclass

from workers.engine.scheduler import StepPlan
from workers.model.contract import ChunkKind

SMOOTHING = 0.1  # weight of the newest step in the moving averages


@dataclass(slots=True)
class EngineStats:
    num_steps: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_output_tokens: int = 0
    num_draft_tokens: int = 0  # computed
    num_accepted_tokens: int = 0  # of them right, whether the answer went so far or ended before
    step_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    waiting_since_s: float | None = None  # since when work has waited for a step to finish; None while idle

    def step_begins(self, now_s: float) -> None:
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s

    def step_done(self, now_s: float, started_s: float, plan: StepPlan, *, is_idle: bool) -> None:
        took_s = max(now_s - started_s, 1e-9)
        self.num_steps += 1
        self.step_s += (took_s - self.step_s) * (SMOOTHING if self.num_steps > 1 else 1.0)
        prefill_tokens = sum(chunk.num_tokens for chunk in plan.chunks if chunk.kind is ChunkKind.PREFILL)
        if prefill_tokens:
            rate = prefill_tokens / took_s
            first = self.prefill_tokens_per_s == 0.0
            self.prefill_tokens_per_s += (rate - self.prefill_tokens_per_s) * (1.0 if first else SMOOTHING)
        self.waiting_since_s = None if is_idle else now_s

    def no_step(self, now_s: float, *, is_stuck: bool) -> None:
        """Nothing could be scheduled; `is_stuck`: though there is work, and nothing else to wait for."""
        if not is_stuck:
            self.waiting_since_s = None
        elif self.waiting_since_s is None:
            self.waiting_since_s = now_s


def since_progress_s(waiting_since_s: float | None, now_s: float) -> float:
    """Since work has waited for a step to finish; 0 while there is none."""
    return 0.0 if waiting_since_s is None else max(now_s - waiting_since_s, 0.0)
