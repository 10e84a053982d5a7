"""What lies around workers' steps, and what workers of one machine cost each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """Workers whose cores share caches and memory bandwidth slow each other down; devices with their own do not.

    A step takes its time times 1 + the sum of these shares over the machine's other workers that compute when it
    begins, by what it does itself and what they do: a step with prompts, or of decodes alone.
    """

    workers_per_machine: int = 1  # workers fill machines in order of the pools
    prompt_beside_prompt: float = 0.0
    prompt_beside_decode: float = 0.0
    decode_beside_prompt: float = 0.0
    decode_beside_decode: float = 0.0

    def factor(self, *, has_prompts: bool, num_prompts: int, num_decodes: int) -> float:
        """Args:
        num_prompts, num_decodes: Other workers of the machine whose step is one with prompts, or of decodes alone.
        """
        if has_prompts:
            return 1 + num_prompts * self.prompt_beside_prompt + num_decodes * self.prompt_beside_decode
        return 1 + num_prompts * self.decode_beside_prompt + num_decodes * self.decode_beside_decode


ALONE = Contention()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Seconds beside what a latency model says."""

    ingress_s: float = 0.0  # from a caller to a worker's step, and again from its end to the caller
    handover_s: float = 0.0  # that a step takes longer whose prompts go to another worker
    receive_s: float = 0.0  # that a decode worker's steps stand still for each prompt that comes to it
    start_s: float = 5.0  # of a worker that is replaced
    contention: Contention = ALONE
