"""Writes what of helm/baton is made from something else: `python -m tools.chart` after a change of values or config.

README.md and values.schema.json come from values.yaml and its comments, the config's part from `cluster.config`.
"""

from collections.abc import Mapping
from pathlib import Path

from tools.chart import config_keys, readme, values_schema

CHART = Path(__file__).parents[2] / "helm" / "baton"


def made(chart: Path = CHART) -> Mapping[str, str]:
    """Path below the chart -> text."""
    values = (chart / "values.yaml").read_text(encoding="utf-8")
    return {
        "files/config-keys.json": config_keys.text(),
        "values.schema.json": values_schema.text(values),
        "README.md": readme.text(values, (chart / "README.head.md").read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for name, text in made().items():
        (CHART / name).write_text(text, encoding="utf-8")
