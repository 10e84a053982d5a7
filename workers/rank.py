"""What runs in a worker's process: the whole worker, or one rank of it. All have the same methods for the fleet."""

from workers.actor import WorkerActor
from workers.follower import Follower
from workers.spec import WorkerSpec


def make_rank(spec: WorkerSpec, incarnation: str) -> WorkerActor | Follower:
    return Follower(spec, incarnation) if spec.gang.rank else WorkerActor(spec, incarnation)
