"""Pools of unlike degrees under `baton up`: the tokens of one rank, and KV that went from gang to gang."""

from pathlib import Path

import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tests.cluster.tiny_model import greedy_tokens, tiny_served
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,  # the same is shown below Ray by tests/unit/parallel/test_handover.py
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model, whose heads two ranks divide, with the demo model's tokenizer."""
    return tiny_served(tmp_path_factory.mktemp("model") / "tiny", "llama")


@pytest.mark.parametrize(("prefill", "decode"), [(2, 1), (1, 2)])
def test_a_prompt_is_read_by_one_gang_and_answered_by_an_unlike_one(folder: Path, prefill: int, decode: int) -> None:
    pools = (
        f"pools: {{prefill: {{workers: 1, tensor_parallel: {prefill}}}, "
        f"decode: {{workers: 1, tensor_parallel: {decode}}}}}"
    )
    cluster = ServedCluster(str(folder), extra=pools)
    try:
        cluster.up()
        with baton.Client(cluster.grpc) as sdk:
            ids = list(sdk.tokenize(LONG))
            answer = sdk.generate(LONG, max_tokens=32, temperature=0, ignore_eos=True)
        assert list(answer.choices[0].token_ids) == greedy_tokens(folder, ids, 32)
        cluster.wait("blocks", all_free)
        workers = cluster.workers()
        assert [len(workers[name]["ranks"]) for name in ("prefill-0", "decode-0")] == [prefill, decode]
        nbytes = len(ids) * 3 * 2 * 2 * 16 * 4  # 3 layers of keys and values of 2 heads of 16 floats
        assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"] == nbytes
    finally:
        cluster.down()
