"""What one rank reads and holds of a model."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import ConfigError
from bench.models import LlamaShape, write_dummy
from tests.models import COMMON, HYBRIDS, tiny
from tests.unit.model.driver import make_spec
from tests.unit.parallel.lone_ranks import LoneRanks
from workers.model import loader
from workers.model.cpu.fused import FusedLayer, PanelLayer
from workers.model.cpu.packed import PackedLinear, TwiceLinear
from workers.model.cpu.panels import PanelLinear
from workers.model.loader import load_model
from workers.model.runner import TorchRunner
from workers.model.tensor_parallel.shard import Shard, shard_of
from workers.model.tensor_parallel.summed import SummedLinear
from workers.spec import GangSpec, WorkerSpec

ROOT = Path(__file__).resolve().parents[3]


def rank_spec(folder: Path, rank: int, size: int) -> WorkerSpec:
    return replace(make_spec(folder), gang=GangSpec(tensor_parallel=size, rank=rank))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "phi3", "qwen3_5_text"])
def test_two_ranks_read_every_divided_weight_once_between_them(family: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny(family)
    caplog.set_level(logging.INFO, logger="workers.model.loader")
    for rank in range(2):
        load_model(rank_spec(folder, rank, 2), LoneRanks(rank, 2))
    read = [int(record.getMessage().split("num_bytes=")[1]) for record in caplog.records if "num_bytes" in record.msg]
    whole = {name: weight.nbytes for name, weight in load_model(make_spec(folder)).model.named_parameters()}
    on_both = sum(n for name, n in whole.items() if "norm" in name or "embed_tokens" in name or ".gate." in name)
    assert len(read) == 2
    assert sum(read) == sum(whole.values()) + on_both
    assert read[0] == read[1]


def test_the_memory_that_is_asked_for_is_the_ranks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny("llama", num_hidden_layers=12, vocab_size=64)
    whole = sum(weight.nbytes for weight in load_model(make_spec(folder)).model.parameters())
    kv_bytes = make_spec(folder).engine.memory_bytes
    monkeypatch.setattr(loader, "available_bytes", lambda device: (whole + kv_bytes) * 2 // 3)
    with pytest.raises(ConfigError, match=r"lower engine\.memory, or give a smaller model"):
        load_model(make_spec(folder))
    load_model(rank_spec(folder, 1, 2), LoneRanks(1, 2))


LIMITED = """
import gc, resource, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.unit.parallel.test_shares import rank_spec, LoneRanks, load_model

def load(folder, size):
    spec = replace(rank_spec(Path(folder), 0, size), load_format="dummy")
    return sum(weight.nbytes for weight in load_model(spec, LoneRanks(0, size)).model.parameters())

torch.set_num_threads(1)
load(sys.argv[2], 2)  # imports what loading needs
used = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[3]),) * 2)
print(load(sys.argv[1], 2))
gc.collect()
load(sys.argv[1], 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' limit of a process's data")
def test_a_model_that_is_larger_than_what_a_rank_may_hold_is_loaded_by_two(tmp_path: Path) -> None:
    shape = LlamaShape(hidden=1024, layers=5, heads=16, kv_heads=8, mlp=2816, vocab=1024, positions=256)
    folder, limit = write_dummy(shape, tmp_path / "large"), 200 << 20  # the whole takes 230 MB in float32
    words = [sys.executable, "-c", LIMITED, str(folder), str(tiny("llama")), str(limit)]
    environ = os.environ | {"MALLOC_ARENA_MAX": "1"}  # else threads of a busy machine take memory that they do not need
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=100, check=False)
    assert done.stdout, done.stderr
    assert 100 << 20 < int(done.stdout) < limit, done.stderr
    assert done.returncode != 0
    assert "memory" in done.stderr.lower()


@given(st.data())
def test_where_an_element_of_the_whole_is_in_a_part(data: st.DataObject) -> None:
    """Against the part itself, for weights that are cut along any dimension into one or several runs."""
    size = data.draw(st.integers(1, 4))
    dims = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    dim = data.draw(st.integers(0, len(dims) - 1))
    num_parts = data.draw(st.integers(1, 3))
    mine = data.draw(st.integers(1, 3))
    whole, local = list(dims), list(dims)
    whole[dim], local[dim] = num_parts * mine * size, num_parts * mine
    rank = data.draw(st.integers(0, size - 1))
    shard = shard_of("w", whole, local, rank=rank, size=size, parts=((mine * size, mine),) * num_parts)
    weight = torch.arange(int(np.prod(whole))).view(whole)
    part = shard.of(weight)
    assert list(part.shape) == local
    flat = np.arange(weight.numel())
    places = shard.places(flat)
    held = places >= 0
    assert sorted(flat[held]) == sorted(part.reshape(-1).tolist())
    assert part.reshape(-1)[torch.from_numpy(places[held])].tolist() == flat[held].tolist()


def test_kv_heads_that_are_fewer_than_ranks_are_held_by_several() -> None:
    pieces = [shard_of("k", (2, 5), (1, 5), rank=rank, size=4, parts=()).runs for rank in range(4)]
    assert pieces == [((0, 1),), ((0, 1),), ((1, 2),), ((1, 2),)]


def test_a_bias_that_is_added_once_is_zero_on_all_ranks_but_the_first() -> None:
    folder = tiny("gpt_oss")
    both = [load_model(rank_spec(folder, rank, 2), LoneRanks(rank, 2)).model for rank in range(2)]
    bias = [model.get_parameter("model.layers.0.self_attn.o_proj.inner.bias") for model in both]
    assert bias[0].abs().sum() > 0
    assert bias[1].abs().sum() == 0
    assert Shard(shape=(3,), runs=((0, 3),), is_zero=True).places(np.arange(3)).tolist() == [-1] * 3


def test_weights_of_another_shape_than_the_config_says_are_named(tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(ConfigError, match=r"mlp\..*_proj.weight has the shape \[.*\] where the config makes it"):
        load_model(rank_spec(folder, 0, 2), LoneRanks(0, 2))


def test_a_part_of_a_multimodal_checkpoint_is_that_of_its_text_model(tmp_path: Path) -> None:
    from transformers import AutoConfig, Qwen3_5ForConditionalGeneration

    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 64}
    config = AutoConfig.for_model("qwen3_5", text_config={**COMMON, **HYBRIDS["qwen3_5_text"]}, vision_config=vision)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(tmp_path)
    whole, part = load_model(make_spec(tmp_path)).model, load_model(rank_spec(tmp_path, 1, 2), LoneRanks(1, 2)).model
    name = "model.layers.0.linear_attn.in_proj_z.weight"
    assert part.get_parameter(name).equal(whole.get_parameter(name)[24:])
    assert len(whole.get_parameter(name)) == 48


def test_what_is_not_divided_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel: 2 is not supported for 'gpt_neox' models"):
        load_model(rank_spec(_config_only(tmp_path, "gpt_neox"), 0, 2), LoneRanks(0, 2))


def _config_only(folder: Path, family: str) -> Path:
    from transformers import AutoConfig

    AutoConfig.for_model(family).save_pretrained(folder)
    return folder


def test_the_layers_of_a_share_are_fused_as_those_of_the_whole_are() -> None:
    folder = tiny("llama")
    whole, share = (
        TorchRunner(make_spec(folder)),
        TorchRunner(rank_spec(folder, 0, 2), ranks=LoneRanks(0, 2)),
    )
    if not any(type(layer) in (FusedLayer, PanelLayer) for layer in whole.model.model.layers):
        pytest.skip("no layer is fused on this machine")
    assert [type(layer) for layer in share.model.model.layers] == [FusedLayer] * 3
    assert {type(layer.down) for layer in share.model.model.layers} == {SummedLinear}
    assert {type(layer.down.inner) for layer in share.model.model.layers} <= {PackedLinear, PanelLinear, TwiceLinear}
