"""What makes a model no draft for another is told before anything starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from baton.errors import ConfigError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.local.draft_preflight import check_draft
from cluster.local.preflight import warnings
from workers.model.registry import resolve_model

TARGET = resolve_model("demo")


def asked(**pool: Any) -> BatonConfig:
    return loads(json.dumps({"model": "demo", "pools": {"draft": {"model": "mine", **pool}}}))


def altered(tmp_path: Path, **fields: Any) -> Path:
    folder = Path(shutil.copytree(resolve_model("demo-draft"), tmp_path / "mine"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | fields))
    return folder


def test_the_bundled_draft_goes_with_the_bundled_model_at_every_degree() -> None:
    for degree in (1, 2, 3, 4):
        check_draft(resolve_model("demo-draft"), TARGET, asked(layer_parallel=degree))


def test_another_vocabulary_is_refused_with_both_sizes(tmp_path: Path) -> None:
    draft = altered(tmp_path, vocab_size=5000)
    with pytest.raises(
        ConfigError,
        match=r"pools\.draft\.model: mine has a vocabulary of 5000 tokens, demo has one of 4096; give a draft model",
    ):
        check_draft(draft, TARGET, asked(workers=0))


def test_more_ranks_than_layers_that_can_be_grouped_are_refused_with_both_numbers() -> None:
    with pytest.raises(
        ConfigError,
        match=r"pools\.draft\.layer_parallel: 5 is above the 4 layers of mine that can be computed at once: it has 6",
    ):
        check_draft(resolve_model("demo-draft"), TARGET, asked(layer_parallel=5))


def test_linear_attention_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pools\.draft\.model: mine has linear attention: a guess that proves wrong"):
        check_draft(altered(tmp_path, model_type="qwen3_next"), TARGET, asked())


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    draft = altered(tmp_path)
    (draft / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"pools\.draft\.model: .*has no \*\.safetensors"):
        check_draft(draft, TARGET, asked())


def test_a_draft_model_that_is_not_used_is_told_of() -> None:
    config = loads("pools: {draft: {workers: 0, model: mine}}\nspeculation: {method: ngram}")
    assert "pools.draft.model: mine is not used, since speculation.method is ngram" in "\n".join(warnings(config))


def test_ranks_of_draft_workers_that_are_not_there_are_told_of() -> None:
    said = "pools.draft.layer_parallel: 2 is not used, since pools.draft.workers is 0: each worker that decodes"
    pool = "pools: {draft: {workers: %d, model: mine, layer_parallel: 2}}"
    assert said in "\n".join(warnings(loads(pool % 0)))
    assert "layer_parallel" not in "\n".join(warnings(loads(pool % 1)))
