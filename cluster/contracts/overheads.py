"""What lies around workers' steps, and what workers of one machine cost each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """Workers whose cores share caches and memory bandwidth slow each other down; devices with their own do not.

    A step takes longer by its share for each of the machine's other workers that computes when it begins.
    """

    workers_per_machine: int = 1  # workers fill machines in order of the pools
    prompts: float = 0.0  # of a step with prompts
    decodes: float = 0.0  # of a step of decodes alone

    def factor(self, *, has_prompts: bool, num_others: int) -> float:
        """By which a step is slower while `num_others` compute beside it."""
        return 1 + num_others * (self.prompts if has_prompts else self.decodes)


ALONE = Contention()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Seconds beside what a latency model says."""

    ingress_s: float = 0.0  # from a caller to a worker's step, and again from its end to the caller
    handover_s: float = 0.0  # that a step takes longer whose prompts go to another worker
    receive_s: float = 0.0  # that a decode worker's steps stand still for each prompt that comes to it
    start_s: float = 5.0  # of a worker that is replaced
    contention: Contention = ALONE
