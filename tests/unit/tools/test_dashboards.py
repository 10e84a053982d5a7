"""The dashboards are what the tool makes, as Grafana takes them, and ask only for metrics that there are."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tools.dashboards.__main__ import DASHBOARDS, ROOT, RULES, made
from tools.metrics_table import exported

NAMES = {name for described in exported() for name in described.series}


@pytest.mark.parametrize("name", sorted(made()))
def test_the_checked_in_files_are_what_the_tool_makes(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == made()[name], "run `python -m tools.dashboards`"


def test_nothing_else_lies_beside_them() -> None:
    for folder in ("deploy/grafana", "helm/baton/dashboards", "helm/baton/files/prometheus"):
        there = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir()}
        assert there <= set(made()), folder


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    for each in DASHBOARDS:
        yield each.name, json.loads(made()[f"deploy/grafana/baton-{each.name}.json"])


@pytest.mark.parametrize(("name", "model"), list(models()))
def test_grafana_can_lay_it_out(name: str, model: dict[str, Any]) -> None:
    panels = model["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"


def queries() -> list[tuple[str, str]]:
    told = [(f"{each.name}: {panel.title}", query.expression) for each in DASHBOARDS for panel in each.panels
            for query in panel.queries]  # fmt: skip
    for name in RULES:
        for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / name).read_text())["groups"]:
            told += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"]]
    return told


@pytest.mark.parametrize(("where", "expression"), queries())
def test_only_metrics_that_are_exported_are_asked_for(where: str, expression: str) -> None:
    asked = set(re.findall(r"\b(?:baton|process)_[a-z0-9_]+", expression))
    assert asked - NAMES == set()


@pytest.mark.parametrize(("where", "expression"), queries())
def test_single_workers_own_scrapes_are_never_counted_beside_the_clusters(where: str, expression: str) -> None:
    for selector in re.findall(r"\bbaton_worker_[a-z0-9_]+(\{[^}]*\}|)", expression):
        assert 'job=~"$job"' in selector or 'job!~".*-workers"' in selector, selector
