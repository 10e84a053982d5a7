"""Dashboards and alerts in the chart are those of deploy/, and render as the operators of both take them."""

import json

import yaml

from tests.deploy.helm.chart import CHART, ROOT, named, of_kind, render, render_with
from tools.dashboards.__main__ import DASHBOARDS


def test_each_dashboard_is_a_config_map_for_the_sidecar() -> None:
    maps = [one for one in of_kind(render("xpyd"), "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
    assert len(maps) == len(DASHBOARDS)
    for one in maps:
        ((name, text),) = one["data"].items()
        assert text == (ROOT / "deploy" / "grafana" / name).read_text(encoding="utf-8")
        assert json.loads(text)["uid"] == name.removesuffix(".json")


def test_the_rules_are_those_of_prometheus() -> None:
    groups = named(render("xpyd"), "PrometheusRule", "baton")["spec"]["groups"]
    files = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "files" / "prometheus").glob("*.yml"))]
    assert groups == [group for file in files for group in file["groups"]]


def test_nothing_of_it_is_there_unless_it_is_asked_for() -> None:
    objects = render_with()
    assert not of_kind(objects, "PrometheusRule")
    assert not [one for one in of_kind(objects, "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
