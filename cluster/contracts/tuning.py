"""Limits of a running cluster that the autopilot may set without restarting anything."""

from dataclasses import dataclass, replace

from cluster.config.schema import EngineConfig, RouterConfig

ROUTER_KNOBS = ("max_running", "max_queue", "disaggregate_over_tokens")  # of each ingress replica
WORKER_KNOBS = ("max_batched_tokens", "max_draft_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """None: as the config has it.

    Attributes:
        max_running, max_queue, disaggregate_over_tokens: As in `router`, of each ingress replica.
        max_batched_tokens: As in `engine`; at most what the worker was started with.
        max_draft_tokens: Of each sequence in a step, in a row; at most `speculation.max_tokens`.
    """

    max_running: int | None = None
    max_queue: int | None = None
    disaggregate_over_tokens: int | None = None
    max_batched_tokens: int | None = None
    max_draft_tokens: int | None = None

    def router(self, config: RouterConfig) -> RouterConfig:
        told = {name: getattr(self, name) for name in ROUTER_KNOBS if getattr(self, name) is not None}
        return replace(config, **told)

    def engine(self, config: EngineConfig) -> EngineConfig:
        if self.max_batched_tokens is None:
            return config
        return replace(config, max_batched_tokens=self.max_batched_tokens)


UNTUNED = Tuning()
