"""From a spec to a rank that is ready: the gang is gathered, its shares are loaded, all at the same time."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from baton.errors import BatonError
from workers.model.contract import RankRunner
from workers.parallel.gang import Gang
from workers.parallel.lobby import NO_GROUP, Lobby, choose_backend, join
from workers.parallel.runner import GangRunner
from workers.spec import WorkerSpec
from workers.starting import build_runner, load

if TYPE_CHECKING:
    from workers.parallel.collectives import GroupRanks
    from workers.parallel.gathering import SequenceRanks
    from workers.parallel.shared_ranks import SharedRanks

AHEAD_BYTES = 8 << 20  # by which a rank may be ahead: two layers' keys and values of some 1,000 tokens
GATHER_TIMEOUT_S = 240.0  # ranks may wait for their places; the controller's patience ends later
Fail = Callable[[BatonError], None]


def open_lobby(spec: WorkerSpec) -> Lobby:
    """Raises: ConfigError: this machine's torch cannot join ranks."""
    backend = NO_GROUP if spec.fake else choose_backend(spec.device, shares_device=spec.gang.shares_device)
    return Lobby(host=spec.host, size=spec.gang.size, secret=spec.secret, backend=backend)


def lead(spec: WorkerSpec, lobby: Lobby, fail: Fail) -> tuple[GangRunner, Gang]:
    """Blocks until every rank has loaded its share.

    Args:
        fail: Called once, from any thread, when the gang is of no use: also while this blocks.
    Raises:
        UnavailableError: Not all ranks came.
        ConfigError: What the loader raises here; what it raises elsewhere is `fail`'s.
    """
    gang = lobby.gather(timeout_s=GATHER_TIMEOUT_S, fail=fail)
    runner = _load(spec, gang)
    gang.wait_ready(GATHER_TIMEOUT_S)
    return GangRunner(runner, gang, fail=fail), gang


def enter(spec: WorkerSpec, fail: Fail) -> tuple[RankRunner, Gang]:
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
    share = _load(spec, gang)
    gang.say_ready()
    return share, gang


def _load(spec: WorkerSpec, gang: Gang) -> RankRunner:
    try:
        if spec.fake:
            return build_runner(spec)
        runner, num_begun = _joined(spec, gang)
    except BatonError as error:
        gang.fault(error)
        raise
    gang.watch_progress(num_begun)
    return runner


def _joined(spec: WorkerSpec, gang: Gang) -> "tuple[RankRunner, Callable[[], int]]":
    """And how often it has begun to wait for the other ranks."""
    if spec.gang.sequence_parallel > 1:
        from workers.parallel.sequence_runner import SequenceRunner

        sequence = _sequence_ranks(spec, gang)
        return load(spec, lambda: SequenceRunner(spec, sequence)), lambda: sequence.num_begun
    from workers.model.runner import TorchRunner

    ranks = _ranks(spec, gang)
    return load(spec, lambda: TorchRunner(spec, ranks=ranks)), lambda: ranks.num_begun


def _sequence_ranks(spec: WorkerSpec, gang: Gang) -> "SequenceRanks":
    from workers.parallel.collectives import GroupRanks
    from workers.parallel.gathering import SequenceRanks
    from workers.parallel.shared_ranks import share_exchange

    group = GroupRanks(gang.group, rank=gang.rank, size=gang.size)
    exchange = share_exchange(group, AHEAD_BYTES) if spec.device == "cpu" else None
    if exchange is not None:
        gang.on_end(exchange.abort)
    return SequenceRanks(gang.group, rank=gang.rank, size=gang.size, exchange=exchange)


def _ranks(spec: WorkerSpec, gang: Gang) -> "GroupRanks | SharedRanks":
    """The fastest way of this gang's ranks to add up."""
    from workers.parallel.collectives import GroupRanks
    from workers.parallel.shared_ranks import share_memory

    group = GroupRanks(gang.group, rank=gang.rank, size=gang.size)
    shared = share_memory(group) if spec.device == "cpu" else None
    if shared is None:
        return group
    gang.on_end(shared.abort)
    return shared
