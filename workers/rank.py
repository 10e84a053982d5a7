"""What runs in a worker's process: the whole worker, or one rank of it. All have the same methods for the fleet."""

from workers.actor import WorkerActor
from workers.draft_actor import DraftActor
from workers.follower import Follower
from workers.spec import Role, WorkerSpec


def make_rank(spec: WorkerSpec, incarnation: str) -> WorkerActor | Follower:
    if spec.gang.rank:
        return Follower(spec, incarnation)
    return DraftActor(spec, incarnation) if spec.role is Role.DRAFT else WorkerActor(spec, incarnation)
