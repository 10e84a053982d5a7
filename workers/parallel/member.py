"""From a spec to a rank that is ready: the gang is gathered, its shares are loaded, all at the same time."""

from collections.abc import Callable

from baton.errors import BatonError
from workers.model.contract import RankRunner
from workers.parallel.gang import Gang
from workers.parallel.lobby import Lobby, choose_backend, join
from workers.parallel.meeting import NO_GROUP
from workers.parallel.runner import GangRunner
from workers.spec import WorkerSpec
from workers.starting import build_runner, load

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
            runner = build_runner(spec)
            gang.load_ends()
            return runner
        from workers.parallel.axes import Axes

        axes = Axes(spec, gang)
        runner = load(spec, axes.make_runner)
    except BatonError as error:
        gang.fault(error)
        raise
    gang.watch_progress(axes.progress(), axes.patience_s)
    return runner
