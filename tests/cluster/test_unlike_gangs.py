"""Pools of unlike degrees under `baton up`: the tokens of one rank, and KV that went from gang to gang."""

import shutil
from pathlib import Path

import pytest

import baton
from tests.cluster.served import ServedCluster, all_free
from tests.models import tiny
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
    made = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny("llama", vocab_size=4096, max_position_embeddings=512), made)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / "demo" / name, made / name)
    return made


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
        assert list(answer.choices[0].token_ids) == _expected(folder, ids, 32)
        cluster.wait("blocks", all_free)
        workers = cluster.workers()
        assert [len(workers[name]["ranks"]) for name in ("prefill-0", "decode-0")] == [prefill, decode]
        nbytes = len(ids) * 3 * 2 * 2 * 16 * 4  # 3 layers of keys and values of 2 heads of 16 floats
        assert workers["prefill-0"]["kv_bytes_sent"] == workers["decode-0"]["kv_bytes_received"] == nbytes
    finally:
        cluster.down()


def _expected(folder: Path, ids: list[int], num_tokens: int) -> list[int]:
    """What transformers writes, greedy, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = model.generate(torch.tensor([ids]), max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
    return [int(token) for token in found[0, len(ids) :]]
