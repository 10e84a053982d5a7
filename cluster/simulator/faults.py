"""Named faults: their kinds, their text form, and what each does to a simulated cluster. A change of role is one too.

Text form: `KIND[:WORKER]@TIME[*FACTOR][/DURATION]`, several joined by commas. Times are seconds (`30`, `30s`), or
`500ms`, `2min`. For example `kill_decode@30s`, `kill:decode-1@30s/20s`, `slow_link@10s*0.1/5s`, `stalled_rank@12s/4s`.

What follows a fault is production's business: `fleet.tick` replaces the dead and the wedged, `Lifecycle` retries.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from baton.errors import ConfigError
from cluster.contracts.simulation import Fault
from workers.spec import SERVING_ROLES, Role

GRAMMAR = "KIND[:WORKER]@TIME[*FACTOR][/DURATION], for example kill_decode@30s or slow_link@10s*0.1/5s"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """What a fault of a kind may say. `factor`: (above, below), bounds excluded; None: it takes none."""

    meaning: str
    roles: tuple[Role, ...] = SERVING_ROLES  # of its target
    becomes: Role | None = None  # what its target does from then on; by lot, of those that do something else
    factor: tuple[float, float] | None = None
    needs_duration: bool = False
    takes_duration: bool = False


KINDS: Mapping[str, FaultKind] = {
    "kill": FaultKind(meaning="the worker dies; /DURATION: no other starts in its place before", takes_duration=True),
    "kill_prefill": FaultKind(meaning="a prefill worker dies", roles=(Role.PREFILL,), takes_duration=True),
    "kill_decode": FaultKind(meaning="a decode worker dies", roles=(Role.DECODE,), takes_duration=True),
    "kill_mixed": FaultKind(meaning="a mixed worker dies", roles=(Role.MIXED,), takes_duration=True),
    "restart": FaultKind(meaning="the worker is drained, stopped and started again"),
    "slow_link": FaultKind(
        meaning="KV to and from the worker moves at FACTOR of its speed", factor=(0.0, 1.0), needs_duration=True
    ),
    "lost_ack": FaultKind(
        meaning="the next ack to the prefill worker is lost: it keeps the blocks for a lease", roles=(Role.PREFILL,)
    ),
    "stalled_rank": FaultKind(meaning="the worker finishes no step meanwhile", needs_duration=True),
    "slow_start": FaultKind(
        meaning="a worker that starts meanwhile takes FACTOR times as long; without a worker: every one",
        factor=(1.0, math.inf),
        needs_duration=True,
    ),
    **{
        f"role_{role}": FaultKind(
            meaning=f"the worker is a {role} worker from then on, as `baton role` makes it", becomes=role
        )
        for role in SERVING_ROLES
    },
}

_FORM = re.compile(
    r"(?P<kind>\w+)(?::(?P<target>[\w-]+))?@(?P<at>[^*/]*)(?:\*(?P<factor>[^*/]*))?(?:/(?P<duration>[^*/]*))?"
)
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|min|)")
_UNITS_S = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0}


class FaultyWorld(Protocol):
    """What a simulated cluster lets faults do. Worker ids are those of its pools, alive or not."""

    def live_workers(self, roles: Collection[Role]) -> Sequence[str]:
        """Those that are up now, in a fixed order."""
        ...

    def kill(self, worker_id: str, *, away_s: float) -> None:
        """Nothing if it is dead; no start in its place for `away_s`."""
        ...

    def restart(self, worker_id: str) -> None: ...

    def set_role(self, worker_id: str, role: Role) -> bool:
        """False, and nothing changes: it is not up, or nobody else could write answers."""
        ...

    def slow_link(self, worker_id: str, *, factor: float, duration_s: float) -> None: ...

    def lose_ack(self, worker_id: str) -> None:
        """The next one on its way to the prefill worker."""
        ...

    def stall(self, worker_id: str, *, duration_s: float) -> None: ...

    def slow_start(self, worker_id: str, *, factor: float, duration_s: float) -> None:
        """`worker_id` empty: whichever starts."""
        ...


def inject(world: FaultyWorld, fault: Fault, rng: Random) -> str:
    """Does it, now; returns the worker that was hit, empty when there was none to hit (or every one is)."""
    target, kind = fault.target, KINDS[fault.kind]
    if fault.kind == "slow_start":
        world.slow_start(target, factor=fault.factor, duration_s=fault.duration_s)
        return target
    if not target:
        candidates = world.live_workers([role for role in kind.roles if role is not kind.becomes])
        if not candidates:
            return ""
        target = rng.choice(candidates)
    if kind.becomes is not None:
        return target if world.set_role(target, kind.becomes) else ""
    match fault.kind:
        case "restart":
            world.restart(target)
        case "slow_link":
            world.slow_link(target, factor=fault.factor, duration_s=fault.duration_s)
        case "lost_ack":
            world.lose_ack(target)
        case "stalled_rank":
            world.stall(target, duration_s=fault.duration_s)
        case _:
            world.kill(target, away_s=fault.duration_s)
    return target


def parse_faults(text: str) -> list[Fault]:
    """Faults in the order of their times.

    Raises:
        ConfigError: `faults`: what is wrong and how it is written.
    """
    parts = [part.strip() for part in text.split(",")]
    return sorted((parse_fault(part) for part in parts if part), key=lambda fault: fault.at_s)


def parse_fault(text: str) -> Fault:
    """One fault. Raises: ConfigError, see `parse_faults`."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"faults: {text!r} is not of the form {GRAMMAR}")
    factor, duration = match["factor"], match["duration"]
    fault = Fault(
        kind=match["kind"],
        at_s=_seconds(text, "time", match["at"]),
        target=match["target"] or "",
        duration_s=_seconds(text, "duration", duration) if duration is not None else 0.0,
        factor=_number(text, factor) if factor is not None else 1.0,
    )
    kind = KINDS.get(fault.kind)
    if kind is not None and kind.factor is None and factor is not None:
        raise ConfigError(f"faults: {text!r}: {fault.kind} takes no factor; leave out *{factor}")
    check_fault(fault)
    return fault


def check_fault(fault: Fault) -> None:
    """Raises: ConfigError: unknown kind, or a field that does not fit it."""
    name, kind = fault.kind, KINDS.get(fault.kind)
    if kind is None:
        raise ConfigError(f"faults: unknown kind {name!r}; known are {', '.join(KINDS)}")
    if not (math.isfinite(fault.at_s) and fault.at_s >= 0.0):
        raise ConfigError(f"faults: {name}: time {fault.at_s!r} must be a number of seconds, 0 or more")
    if not (math.isfinite(fault.duration_s) and fault.duration_s >= 0.0):
        raise ConfigError(f"faults: {name}: duration {fault.duration_s!r} must be a number of seconds, 0 or more")
    if kind.factor is not None:
        low, high = kind.factor
        if not low < fault.factor < high:
            bounds = f"between {low:g} and {high:g}" if math.isfinite(high) else f"above {low:g}"
            raise ConfigError(f"faults: {name}: factor {fault.factor:g} must be {bounds}; write it as *FACTOR")
    if kind.needs_duration and fault.duration_s == 0.0:
        raise ConfigError(f"faults: {name} needs a duration above 0; write it as /DURATION, for example /5s")
    if fault.duration_s and not (kind.needs_duration or kind.takes_duration):
        raise ConfigError(f"faults: {name} takes no duration; leave out /{fault.duration_s:g}s")


def check_targets(faults: Sequence[Fault], worker_ids: Mapping[str, Role]) -> None:
    """Raises: ConfigError: a fault that no worker of the cluster can have."""
    for fault in faults:
        check_fault(fault)
        roles = KINDS[fault.kind].roles
        fitting = [worker_id for worker_id, role in worker_ids.items() if role in roles]
        if not fitting:
            wanted = " or ".join(roles)
            raise ConfigError(
                f"faults: {fault.kind}: the cluster has no {wanted} worker; its workers are {', '.join(worker_ids)}"
            )
        if fault.target and fault.target not in fitting:
            raise ConfigError(
                f"faults: {fault.kind}: it cannot hit worker {fault.target!r}; it can hit {', '.join(fitting)}"
            )


def _seconds(text: str, field: str, value: str) -> float:
    match = _TIME.fullmatch(value)
    if match is None:
        raise ConfigError(f"faults: {text!r}: {field} {value!r} is no time; write 30s, 500ms or 2min")
    return float(match["number"]) * _UNITS_S[match["unit"]]


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"faults: {text!r}: factor {value!r} is no number") from None
