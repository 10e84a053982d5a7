"""A real Prometheus scrapes a loaded cluster: every panel's query and every rule has data."""

import shutil

import pytest

from tools.scraped.__main__ import run
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]


def test_every_panel_and_every_rule_has_data() -> None:
    answers = run(seconds=40.0, pictures=None)
    assert len(answers) > 100
    assert [each for each in answers if each.fault] == []
