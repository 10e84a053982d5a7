"""The adapter that comes and goes is one that the server reads."""

import json
from pathlib import Path

import pytest

from tools.soak.adapter import write_adapter
from workers.adapters.peft_folder import read_adapter
from workers.model.registry import resolve_model


def config_of(model: str) -> dict[str, object]:
    config: dict[str, object] = json.loads((resolve_model(model) / "config.json").read_text())
    return config


def test_an_adapter_is_read(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "one", config_of("demo"), seed=1)
    assert read_adapter("one", folder)


def test_a_model_of_another_build_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is written for qwen3_5_text"):
        write_adapter(tmp_path / "one", config_of("demo-hybrid"), seed=1)
