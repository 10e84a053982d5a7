"""What the benchmark computes is what a model's runner keeps of a prompt, and hands over."""

import pytest

from bench.hybrid_bytes import layers, nbytes
from cluster.models.model_file import read_model_spec
from tests.models import tiny
from tests.unit.model.test_hybrid_engine import spec_of
from workers.model.runner import TorchRunner
from workers.model.state_shape import StateShape


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_next", "minimax"])
def test_bytes_from_the_config_are_those_that_are_kept(family: str) -> None:
    model = read_model_spec(str(tiny(family)), dtype="float32")
    runner = TorchRunner(spec_of(tiny(family)))
    shapes = runner.store.shapes  # type: ignore[attr-defined]
    states = sum(shape.nbytes for shape in shapes if isinstance(shape, StateShape))
    kv = sum(2 * shape.num_kv_heads * shape.head_dim * 4 for shape in shapes if not isinstance(shape, StateShape))
    assert nbytes(model, 100) == states + 100 * kv
    assert [line.split(":")[0] for line in layers(model)] == ["1 attending layers", "2 linear layers"]
