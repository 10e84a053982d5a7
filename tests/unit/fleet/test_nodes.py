import pytest

from baton.errors import ConfigError
from cluster.fleet.nodes import Node, choose, gpu_share, resolve_device, resolve_dtype

CPU = Node(node_id="a", address="127.0.0.1", num_gpus=0.0)
ONE_GPU = Node(node_id="b", address="192.0.2.1", num_gpus=1.0)
TWO_GPUS = Node(node_id="c", address="192.0.2.2", num_gpus=2.0)


def test_cuda_without_a_gpu_is_refused_and_auto_takes_what_is_there() -> None:
    with pytest.raises(ConfigError, match="device: cuda, but the Ray cluster has no GPU; set `device: cpu` or auto"):
        resolve_device("cuda", [CPU])
    assert resolve_device("auto", [CPU]) == "cpu"
    assert resolve_device("auto", [CPU, ONE_GPU]) == "cuda"
    assert resolve_device("cpu", [ONE_GPU]) == "cpu"


def test_a_gpu_computes_in_bfloat16_unless_told_otherwise() -> None:
    assert resolve_dtype("auto", "cuda") == "bfloat16"
    assert resolve_dtype("float32", "cuda") == "float32"
    assert resolve_dtype("auto", "cpu") in ("bfloat16", "float32")


def test_prefill_and_decode_share_one_gpu_in_equal_parts() -> None:
    assert gpu_share([ONE_GPU], 2) == 0.5
    assert gpu_share([CPU, TWO_GPUS], 2) == 1.0
    assert gpu_share([ONE_GPU], 3) * 3 <= 1.0
    assert gpu_share([TWO_GPUS], 3) == 0.5


def test_cuda_without_a_gpu_is_taken_where_nodes_may_come() -> None:
    assert resolve_device("cuda", [CPU], more_may_come=True) == "cuda"
    assert resolve_device("auto", [CPU], more_may_come=True) == "cpu"


def test_a_pools_workers_spread_over_nodes() -> None:
    nodes = [ONE_GPU, TWO_GPUS]
    assert choose(nodes, [], "decode") is ONE_GPU
    assert choose(nodes, [("b", "decode")], "decode") is TWO_GPUS
    assert choose(nodes, [("b", "decode"), ("c", "decode"), ("b", "prefill")], "prefill") is TWO_GPUS
    assert choose([], [], "decode") is None
