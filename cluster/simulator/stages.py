"""When a step of a simulated pipeline passes which stage.

A step of one batch follows a step of another through the stages, each of which takes one step after the other; then the
host works on what came out, one step after the other too.
"""

from cluster.contracts.simulation import Pipelining


class Stages:
    """When the stages are free."""

    def __init__(self, num_stages: int, how: Pipelining) -> None:
        self._how = how
        self._free_s = [0.0] * num_stages

    @property
    def first_free_s(self) -> float:
        return self._free_s[0]

    @property
    def all_free_s(self) -> float:
        return self._free_s[-1]

    def pass_through(self, start_s: float, step_s: float, num_sequences: int, before_s: float) -> float:
        """When a step is done that comes to the first stage at `start_s` and takes `step_s` alone.

        Args:
            before_s: When the step is done that entered last, if it is still on its way.
        """
        host_s = min(self._how.host_step_s + self._how.host_sequence_s * num_sequences, step_s)
        stage_s = (step_s - host_s) / len(self._free_s)
        at_s = start_s
        for stage, free_s in enumerate(self._free_s):
            at_s = self._free_s[stage] = max(at_s, free_s) + stage_s
        return max(at_s, before_s) + host_s

    def stall(self, duration_s: float, now_s: float) -> None:
        self._free_s = [max(free_s, now_s) + duration_s for free_s in self._free_s]
