"""The autopilot in `baton status`: what it makes of things, and its last decisions."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from cluster.planner.online.decision import AutopilotStatus, Decision

NUM_SHOWN = 5
COLOURS = {"advised": "cyan", "applied": "green", "kept": "green", "rolled back": "yellow", "refused": "yellow"}


def autopilot_lines(status: "AutopilotStatus") -> "Iterator[Text]":
    """None where it is off."""
    from rich.text import Text

    if status.mode == "off":
        return
    facts = [f"{status.rate:.2f} requests/s, {status.expected_rate:.2f} expected"]
    if status.attainment is not None:
        facts.append(f"attainment {status.attainment:.0%}")
    if status.error is not None:
        facts.append(f"simulation off by {status.error:.0%}" + ("" if status.is_trusted else ", not trusted"))
    if status.look_s:
        facts.append(f"a look takes {status.look_s:.1f} s of CPU, {status.cpu_share:.1%} of a core in all")
    yield Text(f"autopilot ({status.mode}): {status.doing}; {'; '.join(facts)}")
    if status.costs:
        yield Text(f"  costs: {status.costs}", style="dim")
    for decision in status.decisions[-NUM_SHOWN:]:
        yield Text(f"  {_ago(decision)} {decision}", style=COLOURS.get(decision.state, ""))


def _ago(decision: "Decision") -> str:
    seconds = max(time.time() - decision.at_s, 0.0)
    for unit, length_s in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
