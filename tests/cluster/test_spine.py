"""The whole of it, as a user has it: `baton up`, clients, kills, `baton down`. One cluster for the whole file."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

import baton
from baton.errors import BatonError
from tests.cluster import readme
from tests.cluster.served import ServedCluster, all_free
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]
LONG = "It was a dark night, and the old house stood alone upon the hill. " * 12


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    cluster = ServedCluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        left = [p.pid for p in psutil.process_iter(["environ"]) if _belongs(p, cluster.folder)]
    assert left == [], f"processes that `baton down` left: {left}"


def _belongs(process: psutil.Process, folder: Path) -> bool:
    return (process.info["environ"] or {}).get("BATON_HOME") == str(folder)


@pytest.fixture(scope="module")
def client(served: ServedCluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.http}/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def expected(served: ServedCluster) -> list[int]:
    """What transformers writes after LONG, greedy, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    with baton.Client(served.grpc) as sdk:
        ids = list(sdk.tokenize(LONG))
    model = AutoModelForCausalLM.from_pretrained(BUNDLED / "demo", dtype=torch.float32).eval()
    given = torch.tensor([ids])
    found = model.generate(given, max_new_tokens=64, min_new_tokens=64, do_sample=False)
    return [int(token) for token in found[0, len(ids) :]]


def counts(served: ServedCluster) -> dict[str, int]:
    return {name: worker["num_output_tokens"] for name, worker in served.workers().items()}


def test_a_long_prompt_is_read_by_prefill_and_answered_by_decode_with_generates_tokens(
    served: ServedCluster, expected: list[int]
) -> None:
    with baton.Client(served.grpc) as sdk:
        answer = sdk.generate(LONG, max_tokens=64, temperature=0, ignore_eos=True)
    assert list(answer.choices[0].token_ids) == expected
    served.wait("reports", lambda workers: workers["prefill-0"]["kv_bytes_sent"] > 0)
    workers = served.workers()
    assert workers["decode-0"]["kv_bytes_received"] == workers["prefill-0"]["kv_bytes_sent"]
    assert workers["decode-0"]["num_output_tokens"] >= 63


def test_the_openai_client_completes_streams_and_chats(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt=LONG, max_tokens=24, temperature=0)
    pieces = list(
        client.completions.create(
            model="demo",
            prompt=LONG,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24
    chat = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": LONG}], max_tokens=8, logprobs=True, top_logprobs=3, n=2
    )
    assert len(chat.choices) == 2
    assert all(
        len(choice.logprobs.content) == 8 for choice in chat.choices if choice.logprobs and choice.logprobs.content
    )


def test_every_sampler_is_served(client: openai.OpenAI) -> None:
    def ask(**settings: Any) -> openai.types.Completion:
        extra = {key: settings.pop(key) for key in list(settings) if key in EXTRA}
        return client.completions.create(model="demo", max_tokens=12, extra_body=extra, **{"prompt": LONG, **settings})

    EXTRA = {"top_k", "min_p", "stop_token_ids", "min_tokens", "repetition_penalty", "ignore_eos"}
    same = [ask(seed=5, temperature=0.9, top_p=0.9, top_k=50, min_p=0.01).choices[0].text for _ in range(2)]
    assert same[0] == same[1]
    other = [ask(seed=seed, temperature=0.9, top_p=1).choices[0].text for seed in (6, 7)]
    assert other[0] != other[1]
    greedy = ask(temperature=0).choices[0].text
    assert ask(temperature=0, presence_penalty=2, frequency_penalty=2, repetition_penalty=1.5).choices[0].text != greedy
    assert "zzz" not in ask(temperature=0, logit_bias={"100": -100}, min_tokens=3).choices[0].text
    word = greedy.split()[2]
    stopped = ask(temperature=0, stop=[word])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == greedy[: greedy.index(word)]
    several = ask(prompt=["Once", LONG], n=2, best_of=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert ask(prompt=[5, 6, 7], logprobs=2).choices[0].logprobs is not None


def test_a_field_left_out_is_the_models_default(client: openai.OpenAI, served: ServedCluster) -> None:
    with baton.Client(served.grpc) as sdk:
        (model,) = sdk.models()
        defaults = dict(model.generation_defaults)
        assert defaults == {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        left_out, said, neutral = (
            sdk.generate(LONG, max_tokens=24, seed=3, **settings).text  # type: ignore[arg-type]
            for settings in ({}, defaults, {"temperature": 1.0, "top_p": 1.0})
        )
    assert left_out == said != neutral
    over_http = client.completions.create(model="demo", prompt=LONG, max_tokens=24, seed=3)
    assert over_http.choices[0].text == left_out
    assert client.models.retrieve("demo").model_dump()["generation_defaults"] == defaults


@pytest.mark.parametrize(
    ("settings", "status", "named"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "x " * 5000}, 400, "prompt"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"model": "gpt-9"}, 404, "gpt-9"),
        ({"extra_body": {"tempratur": 1}}, 400, "tempratur"),
        ({"extra_body": {"suffix": "x"}}, 400, "suffix"),
    ],
)
def test_bad_input_is_named(client: openai.OpenAI, settings: dict[str, Any], status: int, named: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**{"model": "demo", "prompt": "Once", "max_tokens": 4, **settings})
    assert caught.value.status_code == status
    assert named in caught.value.message


def test_sdk_and_commands_talk_to_it(served: ServedCluster) -> None:
    with baton.Client(served.grpc) as sdk:
        assert sdk.health() == "serving"
        assert [model.id for model in sdk.models()] == ["demo"]
        ids = sdk.tokenize("Once upon a time")
        assert sdk.detokenize(ids) == "Once upon a time"
        streamed = list(sdk.stream("Once upon a time", max_tokens=9, seed=3))
        whole = sdk.generate("Once upon a time", max_tokens=9, seed=3)
        assert "".join(delta.text for delta in streamed) == whole.choices[0].text
        with pytest.raises(BatonError, match="temperature"):
            sdk.generate("Once", temperature=-2)
    assert served.baton("generate", "Once upon", "--max-tokens", "5").stdout.strip()
    out = served.folder / "bench.json"
    options = ["--concurrency", "2", "--num-prompts", "4", "--input-len", "40", "--output-len", "6"]
    served.baton("bench", *options, "--json", str(out))
    assert json.loads(out.read_text())["completed"] == 4


@pytest.mark.parametrize("code", readme.blocks("python"))
def test_the_readmes_python_runs(served: ServedCluster, code: str) -> None:
    command = [sys.executable, "-c", readme.pointed_at(code, served.http, served.grpc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readmes_curl_line_runs(served: ServedCluster) -> None:
    (line,) = [block for block in readme.blocks("bash") if block.startswith("curl")]
    command = ["bash", "-c", readme.pointed_at(line, served.http, served.grpc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_a_client_that_leaves_frees_everything(served: ServedCluster) -> None:
    with baton.Client(served.grpc) as sdk, sdk.stream(LONG, max_tokens=900, ignore_eos=True) as stream:
        assert next(stream).token_ids
    served.wait("all blocks free", all_free, 10)


@pytest.mark.parametrize("victim", ["decode-0", "prefill-0"])
def test_a_killed_worker_is_replaced_and_the_stream_goes_on(
    served: ServedCluster, expected: list[int], victim: str
) -> None:
    old = served.workers()[victim]["incarnation"]
    tokens: list[int] = []
    with baton.Client(served.grpc) as sdk, sdk.stream(LONG, max_tokens=64, temperature=0, ignore_eos=True) as stream:
        for delta in stream:
            if not tokens:
                served.kill(victim)
            tokens.extend(delta.token_ids)
    assert tokens == expected
    served.wait(f"{victim} replaced", lambda found: found[victim]["incarnation"] != old and all_free(found))


def test_the_controller_may_die(served: ServedCluster, expected: list[int]) -> None:
    before = {name: worker["pid"] for name, worker in served.workers().items()}
    os.kill(controller_pid(served), signal.SIGKILL)
    with baton.Client(served.grpc) as sdk:
        answer = sdk.generate(LONG, max_tokens=64, temperature=0, ignore_eos=True)
    assert list(answer.choices[0].token_ids) == expected
    served.wait("the same workers", lambda found: {name: worker["pid"] for name, worker in found.items()} == before)


def controller_pid(served: ServedCluster) -> int:
    for process in psutil.process_iter(["cmdline", "environ"]):
        if _belongs(process, served.folder) and "ray::Controller" in " ".join(process.info["cmdline"] or []):
            return process.pid
    raise AssertionError("no controller process found")


Record = tuple[tuple[int, ...], tuple[float, ...], int, str | None]


def request_of(index: int) -> tuple[str, dict[str, Any]]:
    rng = random.Random(index)
    prompt = " ".join(rng.choice(LONG.split()) for _ in range(rng.choice([3, 12, 40, 90])))
    settings: dict[str, Any] = {"max_tokens": rng.randrange(1, 20), "seed": index, "ignore_eos": True, "logprobs": 1}
    settings |= {"temperature": 1.0, "top_p": 1.0}
    if index % 2:
        settings |= {"temperature": 0.0, "presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2}
    return prompt, settings


def record(completion: baton.Completion) -> Record:
    choice = completion.choices[0]
    logprobs = tuple(round(entry.sampled.logprob, 2) for entry in choice.logprobs or ())
    return choice.token_ids, logprobs, completion.usage.prompt_tokens, choice.finish_reason


@pytest.mark.slow
async def test_500_requests_survive_aborts_and_the_loss_of_every_process(served: ServedCluster) -> None:
    served.up(prefill=1, decode=2)
    gate = asyncio.Semaphore(40)
    async with baton.AsyncClient(served.grpc, timeout_s=120, max_retries=0) as sdk:

        async def once(index: int, limit_s: float | None) -> Record | None:
            prompt, settings = request_of(index)
            async with gate:
                try:
                    return record(await asyncio.wait_for(sdk.generate(prompt, **settings), limit_s))
                except TimeoutError:
                    return None

        wanted = await asyncio.gather(*(once(index, None) for index in range(500)))

        async def kills() -> None:
            for victim in ("decode-0", "prefill-0", "decode-1"):
                await asyncio.sleep(2)
                await asyncio.to_thread(served.kill, victim)
            os.kill(controller_pid(served), signal.SIGKILL)

        rng = random.Random(1)
        limits = [rng.uniform(0, 1) if index % 3 == 0 else None for index in range(500)]
        killer = asyncio.create_task(kills())
        found = await asyncio.gather(*(once(index, limit_s) for index, limit_s in enumerate(limits)))
        await killer
    assert None not in wanted
    for index, (got, want) in enumerate(zip(found, wanted, strict=True)):
        assert got is None or want is None or same(got, want), f"request {index}: {got} instead of {want}"
    assert all(got is not None for got, limit_s in zip(found, limits, strict=True) if limit_s is None)
    assert sum(got is None for got in found) > 20
    served.wait("all blocks free", all_free, 90)


def same(got: Record, want: Record) -> bool:
    """Equal but for the last bit of logprobs: float32 sums differ with the batch."""
    return got[0] == want[0] and got[2:] == want[2:] and got[1] == pytest.approx(want[1], abs=0.02)


def test_fewer_workers_after_up_again(served: ServedCluster, expected: list[int]) -> None:
    served.up(prefill=1, decode=1)
    served.wait("one decode worker", lambda found: "decode-1" not in found)
    with baton.Client(served.grpc) as sdk:
        answer = sdk.generate(LONG, max_tokens=64, temperature=0, ignore_eos=True)
    assert list(answer.choices[0].token_ids) == expected


def test_health_and_metrics(served: ServedCluster) -> None:
    import httpx

    deadline = time.monotonic() + 10
    while httpx.get(f"{served.http}/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "baton_" in httpx.get(f"{served.http}/metrics").text
