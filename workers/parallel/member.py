"""From a spec to a rank that is ready: the gang is gathered, its shares are loaded, all at the same time."""

from collections.abc import Callable

from baton.errors import BatonError
from workers.model.contract import ModelRunner, RankRunner, Share
from workers.model.tensor_parallel.ranks import Ranks
from workers.parallel.collectives import GroupRanks
from workers.parallel.gang import Gang
from workers.parallel.lobby import NO_GROUP, Lobby, choose_backend, join
from workers.parallel.runner import GangRunner
from workers.parallel.shared_ranks import share_memory
from workers.spec import WorkerSpec
from workers.starting import build_runner, build_share

GATHER_TIMEOUT_S = 240.0  # ranks may wait for their places; the controller's patience ends later
Fail = Callable[[BatonError], None]


def open_lobby(spec: WorkerSpec) -> Lobby:
    """Raises: ConfigError: this machine's torch cannot join ranks."""
    backend = NO_GROUP if spec.fake else choose_backend(spec.device, shares_device=spec.gang.shares_device)
    return Lobby(host=spec.host, size=spec.gang.size, secret=spec.secret, backend=backend)


def lead(spec: WorkerSpec, lobby: Lobby, fail: Fail) -> tuple[ModelRunner, Gang]:
    """Blocks until every rank has loaded its share.

    Args:
        fail: Called once, from any thread, when the gang is of no use: also while this blocks.
    Raises:
        UnavailableError: Not all ranks came.
        ConfigError: What the loader raises here; what it raises elsewhere is `fail`'s.
    """
    gang = lobby.gather(timeout_s=GATHER_TIMEOUT_S, fail=fail)
    return GangRunner(_load(spec, gang), gang, fail=fail), gang


def enter(spec: WorkerSpec, fail: Fail) -> tuple[Share, Gang]:
    """A follower's: the same, to be followed by `workers.parallel.runner.follow`."""
    gang = join(
        spec.gang.lobby,
        rank=spec.gang.rank,
        size=spec.gang.size,
        secret=spec.secret,
        host=spec.host,
        timeout_s=GATHER_TIMEOUT_S,
        fail=fail,
    )
    return _load(spec, gang), gang


def _load(spec: WorkerSpec, gang: Gang) -> RankRunner:
    try:
        if spec.fake:
            return build_runner(spec)
        return build_share(spec, _ranks(spec, gang))
    except BatonError as error:
        gang.fault(error)
        raise


def _ranks(spec: WorkerSpec, gang: Gang) -> Ranks:
    """The fastest way of this gang's ranks to add up."""
    group = GroupRanks(gang.group, rank=gang.rank, size=gang.size)
    shared = share_memory(group) if spec.device == "cpu" else None
    if shared is None:
        return group
    gang.on_end(shared.abort)
    return shared
