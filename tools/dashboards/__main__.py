"""Writes the dashboards and copies alerts into the chart: `python -m tools.dashboards` after a change of either."""

from collections.abc import Mapping
from pathlib import Path

from tools.dashboards.fleet import FLEET
from tools.dashboards.grafana import text
from tools.dashboards.kv import KV
from tools.dashboards.request import REQUEST
from tools.dashboards.slo import SLO
from tools.dashboards.speculation import SPECULATION

ROOT = Path(__file__).parents[2]
DASHBOARDS = (FLEET, REQUEST, KV, SPECULATION, SLO)
RULES = ("recording.yml", "alerts.yml")


def made(root: Path = ROOT) -> Mapping[str, str]:
    """Path below the project -> text."""
    dashboards = {f"baton-{each.name}.json": text(each) for each in DASHBOARDS}
    rules = {name: (root / "deploy" / "prometheus" / name).read_text(encoding="utf-8") for name in RULES}
    return {
        **{f"deploy/grafana/{name}": one for name, one in dashboards.items()},
        **{f"helm/baton/dashboards/{name}": one for name, one in dashboards.items()},
        **{f"helm/baton/files/prometheus/{name}": one for name, one in rules.items()},
    }


if __name__ == "__main__":
    for name, made_text in made().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made_text, encoding="utf-8")
