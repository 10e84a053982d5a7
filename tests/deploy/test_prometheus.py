"""The files of deploy/prometheus, by Prometheus's own tool; and that every alert is documented and tested."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"


def promtool(*arguments: str) -> str:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([binary, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def test_the_rules_are_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "recording.yml", "alerts.yml")


def test_the_example_is_a_config() -> None:
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_alerts_fire_when_they_should_and_not_when_they_should_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_is_tested_and_documented(alert: str) -> None:
    assert f"alertname: {alert}" in (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
    assert f"| {alert} |" in (FOLDER / "README.md").read_text(encoding="utf-8")
