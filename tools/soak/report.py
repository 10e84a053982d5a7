"""Writes what a soak found: report.json with all of it, report.md to read, plots, and the samples as CSV."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tools.soak.plots import draw_load, draw_resources
from tools.soak.result import MIN_JUDGED_S, Result, percentile, told
from tools.soak.samples import ProcessSample
from tools.soak.verdict import Verdict


def write(result: Result, folder: Path) -> Path:
    """Returns the page to read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(result), indent=1, default=str), encoding="utf-8")
    _write_csv(result, folder / "samples.csv")
    draw_load(result, folder / "load.png")
    draw_resources(result, folder / "resources.png")
    page = folder / "report.md"
    page.write_text("\n".join(lines(result)) + "\n", encoding="utf-8")
    return page


def as_json(result: Result) -> dict[str, Any]:
    found, young = result.trends()
    return {
        "ok": result.is_well,
        "summary": result.summary(),
        "troubles": result.troubles(),
        "facts": result.facts,
        "cannot": result.cannot,
        "counts": dict(result.counts()),
        "failures": result.failures(),
        "happenings": [asdict(one) for one in result.happenings],
        "trends": [asdict(trend) | {"is_flat": trend.is_flat} for trend in found],
        "too_young": young,
        "unsteady": result.unsteady,
        "looks": result.looks,
        "num_held_back": result.num_held_back,
        "fleet_events": result.fleet_events,
        "outcomes": [asdict(outcome) | {"verdict": verdict.value} for outcome, verdict in result.verdicts()],
        "cluster_samples": [asdict(sample) for sample in result.samples.clusters],
    }


def lines(result: Result) -> Iterator[str]:
    yield f"# {result.summary()}\n"
    for trouble in result.troubles():
        yield f"* **{trouble}**"
    yield from _facts(result)
    yield from _requests(result)
    yield from _happenings(result)
    yield from _trends(result)
    yield from _failures(result)


def _facts(result: Result) -> Iterator[str]:
    yield "\n" + "; ".join(f"{name}: {value}" for name, value in result.facts.items())
    for line in result.cannot:
        yield f"\nNot done here: {line}"
    if result.unsteady:
        yield f"\nLeft out, since two answers on an idle cluster differed: {'; '.join(result.unsteady)}"
    yield "\n![load](load.png)\n![resources](resources.png)\n"


def _requests(result: Result) -> Iterator[str]:
    yield "## Requests\n\n| verdict | count |\n|---|---|"
    for name, count in result.counts().most_common():
        yield f"| {name} | {count} |"
    yield "\n| family | finished | median s | p95 s | first token, median s |\n|---|---|---|---|---|"
    well = [outcome for outcome, verdict in result.verdicts() if verdict is Verdict.OK]
    for family in sorted({outcome.family for outcome in well}):
        some = [one for one in well if one.family == family and one.manner != "slow"]
        if not some:
            continue
        took = [outcome.end_s - outcome.begin_s for outcome in some]
        first = [one.first_s - one.begin_s for one in some if one.first_s is not None and one.manner != "whole"]
        begun = f"{percentile(first, 0.5):.2f}" if first else "-"
        yield f"| {family} | {len(some)} | {percentile(took, 0.5):.2f} | {percentile(took, 0.95):.2f} | {begun} |"
    looked = ", ".join(f"{path}: {count}" for path, count in sorted(result.looks.items()))
    yield f"\nLooks: {looked or 'none'}. Held back, since too many were open: {result.num_held_back}.\n"


def _happenings(result: Result) -> Iterator[str]:
    yield "## What was done to it\n\n| at, s | what | to whom | whole again after, s | |\n|---|---|---|---|---|"
    for one in result.happenings:
        after = "-" if one.over_s is None else f"{one.over_s - one.begin_s:.1f}"
        yield f"| {one.begin_s:.1f} | {one.kind} | {one.victim} | {after} | {one.error or one.note} |"


def _trends(result: Result) -> Iterator[str]:
    found, young = result.trends()
    judged = "" if result.judges_trends else f" (told, not judged: the load was shorter than {MIN_JUDGED_S:g} s)"
    yield f"\n## Memory, descriptors, threads over the second half{judged}\n"
    for trend in found:
        yield f"* {'' if trend.is_flat else '**not flat** '}{told(trend)}"
    if young:
        yield f"* no process lived long enough to be judged: {', '.join(young)}"
    last = result.samples.clusters[-1] if result.samples.clusters else None
    if last is not None:
        yield f"* blocks at the end: {dict(last.blocks)}; actors {dict(last.actors)}; groups {dict(last.groups)}"
        weight = f"{last.file_bytes >> 20} MiB, logs {last.log_bytes >> 10} KiB"
        yield f"* temporary files at the end: {last.num_files}, {weight}"


def _failures(result: Result) -> Iterator[str]:
    failures = result.failures()
    if failures:
        yield "\n## Failures, the first 20 (all in report.json)\n"
    for one in failures[:20]:
        around = "; ".join(one["around"]) or "nothing"
        yield (
            f"* {one['verdict']}: {one['request_id']}, ask {one['number']} ({one['family']}, {one['api']}, "
            f"{one['manner']}), {one['begin_s']:.2f} to {one['end_s']:.2f} s, {one['ending']} {one['status']} "
            f"{one['error']} {one['differs']}. Around: {around}"
        )


def _write_csv(result: Result, path: Path) -> None:
    names = [field.name for field in fields(ProcessSample)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([getattr(sample, name) for name in names] for sample in result.samples.processes)
