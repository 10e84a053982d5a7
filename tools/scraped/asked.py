"""What dashboards and alerts ask, in a form that a Prometheus of a few minutes' age can answer."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import yaml

from tools.dashboards.__main__ import DASHBOARDS, RULES
from tools.dashboards.panel import Panel
from tools.scraped.prometheus import Prometheus, numbers

JOB = "baton"
VARIABLES: Mapping[str, str] = {"$__rate_interval": "20s", "$job": JOB, "$model": ".*"}
NAMES = re.compile(r"\b(?:baton[_:][a-z0-9_:]+|up)\b(?!\s*\()")


@dataclass(frozen=True, slots=True)
class Answer:
    """`fault`: empty where it has data."""

    where: str
    what: str
    num_series: int
    fault: str


def filled(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def target_answers(prometheus: Prometheus) -> list[Answer]:
    """Of everything that it scrapes."""
    found = prometheus.targets()
    told = [Answer("targets", f"{each['labels']['job']} {each['scrapeUrl']}", 1, each["lastError"]) for each in found]
    jobs = {each["labels"]["job"] for each in found}
    lacking = [job for job in (JOB, f"{JOB}-workers") if job not in jobs]
    return [*told, *(Answer("targets", job, 0, "none was found") for job in lacking)]


def panel_answers(prometheus: Prometheus) -> Iterator[Answer]:
    """Of every query of every panel."""
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                yield _answer(prometheus, dashboard.name, _named(panel, query.legend), filled(query.expression))


def rule_answers(prometheus: Prometheus, rules: Path) -> Iterator[Answer]:
    """Recording rules have data. Alerts can be evaluated, and whatever they look at has data: silence is no proof."""
    for name in RULES:
        for rule in rules_of(rules / name):
            if "record" in rule:
                yield _answer(prometheus, name, rule["record"], rule["record"])
                continue
            yield _answer(prometheus, name, rule["alert"], f"count({rule['expr']}) or vector(0)")
            for metric in sorted(set(NAMES.findall(rule["expr"]))):
                yield _answer(prometheus, name, f"{rule['alert']}: {metric}", metric)


def rules_of(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _answer(prometheus: Prometheus, where: str, what: str, expression: str) -> Answer:
    try:
        series = prometheus.query(expression)
    except HTTPError as error:
        return Answer(where, what, 0, error.read().decode()[:200])
    told = [value for value in numbers(series) if not math.isnan(value)]
    return Answer(where, what, len(told), "" if told else "no data")


def _named(panel: Panel, legend: str) -> str:
    return f"{panel.title}: {legend}" if legend else panel.title
