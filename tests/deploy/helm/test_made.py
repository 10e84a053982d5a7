"""What of the chart is made from something else is what it makes now."""

import pytest

from tools.chart.__main__ import CHART, made


@pytest.mark.parametrize("name", sorted(made()))
def test_the_checked_in_files_are_what_values_and_config_give(name: str) -> None:
    assert (CHART / name).read_text(encoding="utf-8") == made()[name], "run `python -m tools.chart`"


def test_every_value_has_a_row_in_the_readme() -> None:
    text = made()["README.md"]
    for path in ("config", "gpu.enabled", "groups.decode.autoscaling", "tests.timeoutSeconds"):
        assert f"| `{path}` |" in text
