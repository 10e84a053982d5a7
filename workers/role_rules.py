"""Which role a worker can change to, and what is told of a change. Plain data, for the worker and for the fleet."""

from dataclasses import dataclass

from baton.errors import InvalidRequestError
from workers.spec import SERVING_ROLES, GangSpec, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged:
    """
    Attributes:
        num_moved: Choices that were written here and go on elsewhere, from the tokens that they have.
        took_s: From the order to the first load report in the new role.
    """

    role: Role  # of now
    was: Role
    num_moved: int = 0
    took_s: float = 0.0

    @property
    def text(self) -> str:
        """What became of the worker, in words."""
        if self.was is self.role:
            return f"is {self.role} already"
        answers = "1 answer goes" if self.num_moved == 1 else f"{self.num_moved} answers go"
        moved = f"; {answers} on elsewhere" if self.num_moved else ""
        return f"is {self.role} now, was {self.was}, after {self.took_s:.2f} s{moved}"


def check_role(worker_id: str, now: Role, gang: GangSpec, wanted: Role) -> None:
    """Raises: InvalidRequestError: a worker such as this cannot have that role, and why."""
    if wanted not in SERVING_ROLES:
        raise InvalidRequestError(f"role: {wanted} is none that a worker can change to; give {_choices()}", "role")
    if now is Role.DRAFT:
        raise InvalidRequestError(
            f"worker: {worker_id} holds a draft model and takes no requests; name a worker of another pool", "worker"
        )
    if wanted.decodes and gang.sequence_parallel > 1:
        raise InvalidRequestError(
            f"role: {worker_id} cannot be {wanted}: its {gang.sequence_parallel} ranks divide prompts between them "
            "(sequence_parallel), and a token that is written is not divided; name a worker with sequence_parallel: 1",
            "role",
        )


def _choices() -> str:
    return ", ".join(SERVING_ROLES)
