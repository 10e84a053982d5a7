"""What a worker's role has a place for: which requests it takes, and which it gives back when the role changes.

A role is what the router sends; every worker that takes requests could do what any of them does. So a change of role
is a matter of one moment between two steps: what the new role has no place for goes on elsewhere, from the tokens that
it has, and whoever reads them again finds them in this worker's prefix cache.
"""

from baton.errors import BatonError, InternalError
from workers.engine.jobs import Job
from workers.engine.sequence import Sequence as Seq
from workers.preempted import PreemptedError
from workers.spec import SERVING_ROLES, Role

FEW_TOKENS = 8  # an answer that lacks no more is sooner written here than handed on


class Duty:
    """
    Attributes:
        role: Of now.
    """

    def __init__(self, worker_id: str, role: Role) -> None:
        self.role = role
        self._worker_id = worker_id

    def refusal(self, seq: Seq, *, handing_over: bool) -> BatonError | None:
        """Why a request is not for this worker, if so."""
        if self.role not in SERVING_ROLES:
            return InternalError(f"worker {self._worker_id} is a {self.role} worker and takes no requests")
        if self.role.decodes or handing_over or _num_left(seq) <= 1:
            return None
        return self.not_here()

    def gives_back(self, job: Job) -> bool:
        """Whether the job would be written here, where nothing is written any more. What is on its way to another
        worker goes there; what is on its way from one comes whole first."""
        return not self.role.decodes and job.handover is None and _num_left(job.seq) > FEW_TOKENS

    def not_here(self) -> PreemptedError:
        """Of what the role has no place for."""
        return PreemptedError(f"worker {self._worker_id} is a {self.role} worker now; try another")


def _num_left(seq: Seq) -> int:
    """Tokens that its answer may still have."""
    return seq.params.max_tokens - len(seq.output_token_ids)
