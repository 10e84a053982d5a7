"""What a soak found: every count, every failure with what was around it, and whether all is as it must be."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.soak.flatness import Trend, trends
from tools.soak.happening import Happening, around
from tools.soak.outcome import Outcome
from tools.soak.samples import Samples
from tools.soak.verdict import BAD_ONES, Verdict, judge

MAX_DETAILS = 200  # failures that are told in full
MIN_JUDGED_S = 600.0  # of a load: below, rings and caches still fill in its second half; trends are told, not judged


@dataclass(slots=True, kw_only=True)
class Result:
    """
    Attributes:
        facts: Of the run: seed, minutes, rate, processor, versions.
        cannot: What this machine or version cannot do, by name.
        problems: What is wrong besides single requests: no recovery, blocks that stay, leftovers.
        viewer_failures: When, and what a look at /metrics or the page's data got, unexplained.
    """

    facts: dict[str, Any]
    duration_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    unsteady: tuple[str, ...] = ()
    cannot: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    fleet_events: list[dict[str, Any]] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)
    num_held_back: int = 0

    def verdicts(self) -> list[tuple[Outcome, Verdict]]:
        return [(outcome, judge(outcome, self.happenings)) for outcome in self.outcomes]

    def counts(self) -> Counter[str]:
        return Counter(verdict.value for _, verdict in self.verdicts())

    def trends(self) -> tuple[list[Trend], list[str]]:
        """Of all measures; and kinds of which nothing can be said."""
        found, young = [], set()
        for measure in ("anonymous", "fds", "threads"):
            points = ((one.kind, one.pid, one.at_s, float(getattr(one, measure))) for one in self.samples.processes)
            some, too_young = trends(points, measure, self.duration_s / 2, self.duration_s)
            found += some
            young |= set(too_young)
        return found, sorted(young)

    @property
    def judges_trends(self) -> bool:
        return self.duration_s >= MIN_JUDGED_S

    def failures(self) -> list[dict[str, Any]]:
        """In full, with what was done to the cluster about that time."""
        bad = [(outcome, verdict) for outcome, verdict in self.verdicts() if verdict in BAD_ONES]
        return [
            {
                "verdict": verdict.value,
                **asdict(outcome),
                "around": [_told(one) for one in around(self.happenings, outcome)],
            }
            for outcome, verdict in bad[:MAX_DETAILS]
        ]

    def troubles(self) -> list[str]:
        """One line for each thing that is wrong; empty: all is well."""
        counts = self.counts()
        found = [f"{counts[bad.value]} requests {bad.value}" for bad in BAD_ONES if counts[bad.value]]
        found += [f"{_told(one)}: {one.error}" for one in self.happenings if one.error]
        if self.judges_trends:
            found += [told(trend) for trend in self.trends()[0] if not trend.is_flat]
        return found + self.problems

    @property
    def is_well(self) -> bool:
        return not self.troubles()

    def summary(self) -> str:
        """One line."""
        counts = self.counts()
        parts = ", ".join(f"{counts[verdict.value]} {verdict.value}" for verdict in Verdict if counts[verdict.value])
        word = "OK" if self.is_well else "FAILED"
        return f"soak {word}: {len(self.outcomes)} requests ({parts}), {len(self.happenings)} events"


def _told(happening: Happening) -> str:
    victim = f" ({happening.victim})" if happening.victim else ""
    return f"{happening.kind} at {happening.begin_s:.1f} s{victim}"


def told(trend: Trend) -> str:
    unit = 1 << 20 if trend.measure == "anonymous" else 1
    name = "MiB of memory" if trend.measure == "anonymous" else trend.measure
    return (
        f"{trend.kind} (pid {trend.pid}): {trend.growth / unit:+.1f} {name} in {trend.span_s:.0f} s of the second "
        f"half, {trend.allowed / unit:.1f} allowed, median {trend.middle / unit:.0f}"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
