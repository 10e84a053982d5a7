"""A fleet as the autopilot may change it: workers by role and limits; and the changes, one thing each."""

import enum
from dataclasses import dataclass, field, replace

from cluster.contracts.tuning import UNTUNED, Tuning
from workers.spec import SERVING_ROLES, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Workers that take requests, by role."""

    prefill: int = 0
    decode: int = 0
    mixed: int = 0
    tuning: Tuning = UNTUNED

    @property
    def num_workers(self) -> int:
        return self.prefill + self.decode + self.mixed

    def count(self, role: Role) -> int:
        number: int = getattr(self, role.value)
        return number

    def __str__(self) -> str:
        return " + ".join(f"{self.count(role)} {role}" for role in SERVING_ROLES if self.count(role))


class ChangeKind(enum.StrEnum):
    ROLE = "role"
    WORKERS = "workers"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`knob` of `Tuning` from `before` to `after`; None being the config's value, `default`."""

    knob: str
    before: int | None
    after: int | None
    default: int = field(default=0, compare=False)

    def __str__(self) -> str:
        before, after = (self.default if value is None else value for value in (self.before, self.after))
        return f"{self.knob} from {before} to {after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing. ROLE: `count` workers of `source` become ones of `target`. WORKERS: so many more of `target`, or less
    of `source`. LIMIT: `limits` that belong together.
    """

    kind: ChangeKind
    source: Role | None = None
    target: Role | None = None
    count: int = 1
    limits: tuple[Limit, ...] = ()

    def of(self, setup: Setup) -> Setup:
        """`setup` with the change made."""
        if self.kind is ChangeKind.LIMIT:
            after = {limit.knob: limit.after for limit in self.limits}
            return replace(setup, tuning=replace(setup.tuning, **after))
        counts = {role.value: setup.count(role) for role in SERVING_ROLES}
        if self.source is not None:
            counts[self.source.value] -= self.count
        if self.target is not None:
            counts[self.target.value] += self.count
        return Setup(**counts, tuning=setup.tuning)

    @property
    def undone(self) -> "Change":
        """What takes it back."""
        limits = tuple(replace(limit, before=limit.after, after=limit.before) for limit in self.limits)
        return replace(self, source=self.target, target=self.source, limits=limits)

    def has_way_of(self, other: "Change") -> bool:
        """Whether it is the same by another number of workers."""
        return (self.kind, self.source, self.target) == (other.kind, other.source, other.target)

    def undoes(self, other: "Change") -> bool:
        """Whether it goes the other way, be it by another number of workers."""
        if self.kind is not other.kind:
            return False
        if self.kind is ChangeKind.LIMIT:
            return self == other.undone
        return self.source is other.target and self.target is other.source

    @property
    def adds(self) -> int:
        """Workers more than before."""
        return self.count * ((self.target is not None) - (self.source is not None))

    def __str__(self) -> str:
        if self.kind is ChangeKind.LIMIT:
            return ", ".join(map(str, self.limits))
        source, target = (_counted(self.count, role) for role in (self.source, self.target))
        if self.kind is ChangeKind.ROLE:
            return f"{source} becomes {target}" if self.count == 1 else f"{source} become {target}"
        return f"{target} more" if self.target is not None else f"{source} less"


def _counted(count: int, role: Role | None) -> str:
    return f"1 {role} worker" if count == 1 else f"{count} {role} workers"


def role_change(source: Role, target: Role, count: int = 1) -> Change:
    return Change(kind=ChangeKind.ROLE, source=source, target=target, count=count)


def more(role: Role, count: int = 1) -> Change:
    return Change(kind=ChangeKind.WORKERS, target=role, count=count)


def less(role: Role, count: int = 1) -> Change:
    return Change(kind=ChangeKind.WORKERS, source=role, count=count)
