"""How likely a prompt's tokens are, from a real cluster: also when who reads it dies half-way."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.served import ServedCluster

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(400)]
SMALL_STEPS = "engine: {memory: 128MiB, max_batched_tokens: 32, max_sequences: 8}"
PROMPT = [300 + 7 * place % 3000 for place in range(1500)]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    cluster = ServedCluster(extra=SMALL_STEPS)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def pieces(served: ServedCluster, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with httpx.stream("POST", f"{served.http}/v1/completions", json=body | {"stream": True}, timeout=120) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                found = json.loads(line.removeprefix("data: "))
                assert "error" not in found, found
                yield found["choices"][0]


def test_each_token_is_told_once_though_its_reader_dies(served: ServedCluster) -> None:
    body = {"prompt": PROMPT, "prompt_logprobs": 2, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    whole = httpx.post(f"{served.http}/v1/completions", json=body, timeout=120).json()["choices"][0]
    assert len(whole["prompt_logprobs"]) == len(PROMPT)
    (pid,) = [one["pid"] for name, one in served.workers().items() if name.startswith("prefill")]
    told: list[Any] = []
    text, told_when_it_died = "", 0
    for piece in pieces(served, body):
        told += piece.get("prompt_logprobs") or ()
        text += piece["text"]
        if not told_when_it_died:
            os.kill(pid, signal.SIGKILL)
            told_when_it_died = len(told)
    assert 0 < told_when_it_died < len(PROMPT) // 2
    assert text == whole["text"]
    assert told[0] is None
    assert len(told) == len(PROMPT)
    for place, (one, other) in enumerate(zip(told[1:], whole["prompt_logprobs"][1:], strict=True), 1):
        own = str(PROMPT[place])
        assert one[own]["logprob"] == pytest.approx(other[own]["logprob"], abs=1e-4), place
    served.wait("a new prefill worker", lambda workers: all(one["phase"] == "ready" for one in workers.values()))


def test_nothing_is_written_nor_handed_over_with_max_tokens_of_0(served: ServedCluster) -> None:
    body = {"prompt": PROMPT[:400], "echo": True, "logprobs": 1, "max_tokens": 0, "n": 2}
    reply = httpx.post(f"{served.http}/v1/completions", json=body, timeout=60).json()
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length", "length"]
    assert reply["usage"]["completion_tokens"] == 0
    for choice in reply["choices"]:
        assert [len(values) for values in choice["logprobs"].values()] == [400] * 4
    for text in ("naïve 🙂", "<|user|>Hi<|eot|>\n東京 is"):
        asked = body | {"prompt": text, "n": 1, "max_tokens": 3, "temperature": 0}
        (choice,) = httpx.post(f"{served.http}/v1/completions", json=asked, timeout=60).json()["choices"]
        assert choice["text"].startswith(text)
        assert choice["logprobs"]["text_offset"] == sorted(choice["logprobs"]["text_offset"])
