"""Which changes may be made to a fleet now: those that the config's bounds allow."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.config.schema import EngineConfig, PlannerConfig, RouterConfig
from cluster.contracts.tuning import Tuning
from cluster.planner.online.setup import Change, ChangeKind, Limit, Setup, less, more, role_change
from workers.spec import SERVING_ROLES, Role

FOR_TWO, LARGE = 5, 16  # workers of a fleet
LEAST_CHUNK = 32  # tokens of a step: below, prompts take ages for little
LEAST_RUNNING = 8
LEAST_THRESHOLD, MAX_THRESHOLD = 16, 1 << 20  # tokens from which a prompt goes to a prefill worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """
    Attributes:
        max_workers: Of all pools together.
        number_changes: Workers may be added and taken away.
        roles_change: Workers may change between prefill and decode.
        max_draft_tokens: 0: nothing drafts.
    """

    min_workers: int
    max_workers: int
    number_changes: bool
    engine: EngineConfig
    router: RouterConfig
    roles_change: bool = True
    max_draft_tokens: int = 0

    @classmethod
    def of(
        cls,
        config: PlannerConfig,
        setup: Setup,
        engine: EngineConfig,
        router: RouterConfig,
        *,
        roles_change: bool = True,
        max_draft_tokens: int = 0,
    ) -> "Bounds":
        """Args:
        setup: The config's own.
        """
        return cls(
            min_workers=config.min_workers,
            max_workers=config.max_workers or setup.num_workers,
            number_changes=bool(config.max_workers),
            engine=engine,
            router=router,
            roles_change=roles_change,
            max_draft_tokens=max_draft_tokens,
        )

    def allow(self, change: Change, setup: Setup) -> bool:
        """That no pool falls below its least, and all together stay within the most."""
        after = change.of(setup)
        if any(role is not None and not setup.count(role) for role in (change.source, change.target)):
            return False
        if change.adds > 0 and (after.num_workers > self.max_workers or not self.number_changes):
            return False
        return change.source is None or after.count(change.source) >= self.min_workers


def role_changes(setup: Setup, bounds: Bounds) -> list[Change]:
    if not bounds.roles_change:
        return []
    pairs = ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL))
    return _allowed([role_change(*pair, count) for pair in pairs for count in _counts(setup)], setup, bounds)


def additions(setup: Setup, bounds: Bounds) -> list[Change]:
    changes = [more(role, count) for role in SERVING_ROLES if setup.count(role) for count in _counts(setup)]
    return _allowed(changes, setup, bounds)


def removals(setup: Setup, bounds: Bounds) -> list[Change]:
    """One worker each: fewer at a time than are added."""
    changes = [less(role) for role in SERVING_ROLES if setup.count(role)] if bounds.number_changes else []
    return _allowed(changes, setup, bounds)


def _allowed(changes: list[Change], setup: Setup, bounds: Bounds) -> list[Change]:
    return [change for change in changes if bounds.allow(change, setup)]


def _counts(setup: Setup) -> tuple[int, ...]:
    """Workers at once: one; two, since the first alone may show no gain yet; of large fleets a sixteenth."""
    return tuple(sorted({1, *([2] if setup.num_workers >= FOR_TWO else []), setup.num_workers // LARGE} - {0}))


def limits(setup: Setup, bounds: Bounds, *, num_open: int, is_overloaded: bool) -> list[Change]:
    """Steps of limits, each half or twice its value, or back towards the config's.

    Args:
        num_open: Requests of each ingress replica now.
        is_overloaded: No other change is enough: turning some away may serve the others well.
    """
    changes = [*_limits(setup, bounds)]
    if is_overloaded or setup.tuning.max_running is not None:
        changes += _admissions(setup.tuning, bounds.router, num_open)
    return changes


def _limits(setup: Setup, bounds: Bounds) -> Iterator[Change]:
    tuning, chunk, drafts = setup.tuning, bounds.engine.max_batched_tokens, bounds.max_draft_tokens
    least = min(max(LEAST_CHUNK, bounds.engine.max_sequences + 1), chunk)
    yield from _steps("max_batched_tokens", tuning.max_batched_tokens, chunk, least, chunk)
    if setup.prefill:
        threshold = bounds.router.disaggregate_over_tokens
        yield from _steps(
            "disaggregate_over_tokens", tuning.disaggregate_over_tokens, threshold, LEAST_THRESHOLD, MAX_THRESHOLD
        )
    if drafts > 1:
        yield from _steps("max_draft_tokens", tuning.max_draft_tokens, drafts, 1, drafts)


def _steps(knob: str, told: int | None, default: int, least: int, most: int) -> Iterator[Change]:
    value = default if told is None else told
    for to in (max(value // 2, min(least, value)), min(max(2 * value, least), max(most, value))):
        if to != value:
            limit = Limit(knob=knob, before=told, after=None if to == default else to, default=default)
            yield Change(kind=ChangeKind.LIMIT, limits=(limit,))


def _admissions(tuning: Tuning, router: RouterConfig, num_open: int) -> Iterator[Change]:
    """How many run, and a queue that is a quarter of it, so that who is let in is served in time."""
    now = min(router.max_running, num_open) if tuning.max_running is None else tuning.max_running
    less, more = max(now * 3 // 4, LEAST_RUNNING), now * 4 // 3
    if less < now:
        yield _admission(tuning, router, less)
    if tuning.max_running is not None:
        yield _admission(tuning, router, more if more < router.max_running else None)


def _admission(tuning: Tuning, router: RouterConfig, num_running: int | None) -> Change:
    queue = None if num_running is None else min(num_running // 4, router.max_queue)
    return Change(
        kind=ChangeKind.LIMIT,
        limits=(
            Limit(knob="max_running", before=tuning.max_running, after=num_running, default=router.max_running),
            Limit(knob="max_queue", before=tuning.max_queue, after=queue, default=router.max_queue),
        ),
    )
