"""The autopilot on this machine: a load that shifts from long prompts to long answers, without it and with it.

    python -m bench.autopilot_real                  # twice five minutes
    python -m bench.autopilot_real --minutes 2      # shorter
    python -m bench.autopilot_real --only act

Three small workers of `load_format: fake`, whose steps sleep for `fake_step_s`: what a step costs is then the same
whatever else this machine does, and two cores are enough for three workers. Everything else is real: Ray, the ingress,
streams, hand-overs, role changes while requests run. Both runs get the same requests at the same times. Any answer
but a whole one counts as failed.
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.machine import announce

TTFT_MS, TPOT_MS = 600.0, 70.0
CONFIG = {
    "model": "demo",
    "load_format": "fake",
    "fake_step_s": 0.03,
    "engine": {"max_batched_tokens": 64, "max_sequences": 8, "memory": "64MiB", "prefix_cache": False},
    "pools": {"prefill": {"workers": 1}, "decode": {"workers": 2}},
    "speculation": {"method": "none"},
    "router": {"disaggregate_over_tokens": 16},
    "slo": {"ttft_ms": TTFT_MS, "tpot_ms": TPOT_MS, "attainment": 0.9},
    "http": {"port": 0},
    "grpc": {"port": 0},
}
PLANNER = {"mode": "act", "interval_s": 5, "window_s": 30, "cooldown_s": 15}
LONG_PROMPT, LONG_ANSWER = (500, 8), (24, 80)  # tokens of prompt and answer
RATES = (3.6, 3.6)  # requests/s of the two halves


@dataclass(frozen=True, slots=True)
class Planned:
    at_s: float
    num_prompt: int
    num_output: int


@dataclass(frozen=True, slots=True)
class Done:
    at_s: float
    is_whole: bool
    ttft_s: float
    tpot_s: float

    @property
    def is_good(self) -> bool:
        return self.is_whole and self.ttft_s <= TTFT_MS / 1e3 and self.tpot_s <= TPOT_MS / 1e3


def plan(minutes: float, seed: int) -> list[Planned]:
    """Poisson; the kinds of requests change places in the middle third."""
    rng, at_s, end_s = random.Random(seed), 0.0, 60 * minutes
    planned: list[Planned] = []
    while True:
        over = at_s / end_s
        share = min(max(3 * over - 1, 0.0), 1.0)
        at_s += rng.expovariate(RATES[0] + share * (RATES[1] - RATES[0]))
        if at_s >= end_s:
            return planned
        planned.append(Planned(at_s, *(LONG_ANSWER if rng.random() < share else LONG_PROMPT)))


async def ask(client: httpx.AsyncClient, one: Planned, began_s: float) -> Done:
    await asyncio.sleep(max(began_s + one.at_s - time.monotonic(), 0.0))
    body = {
        "model": "demo",
        "prompt": [1 + (7 * place + int(1000 * one.at_s)) % 400 for place in range(one.num_prompt)],
        "max_tokens": one.num_output,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent_s = first_s = last_s = time.monotonic()
    num_tokens = 0
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                now_s = time.monotonic()
                if told.get("choices") and last_s == sent_s:
                    first_s = now_s
                last_s = now_s if told.get("choices") else last_s
                num_tokens = (told.get("usage") or {}).get("completion_tokens", num_tokens)
    except httpx.HTTPError as error:
        print(f"failed: {error!r}", file=sys.stderr)
    tpot_s = (last_s - first_s) / max(one.num_output - 1, 1)
    return Done(one.at_s, num_tokens == one.num_output, first_s - sent_s, tpot_s)


async def play(url: str, planned: Sequence[Planned]) -> list[Done]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        began_s = time.monotonic()
        return list(await asyncio.gather(*(ask(client, one, began_s) for one in planned)))


@contextmanager
def cluster(planner: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Its URL, and the environment of `baton`."""
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as home:
        environment = {**os.environ, "BATON_HOME": home}
        path = Path(home) / "cluster.yaml"
        path.write_text(json.dumps({**CONFIG, "planner": planner}))
        baton("up", str(path), environment=environment)
        try:
            yield json.loads(baton("status", "--json", environment=environment))["http"], environment
        finally:
            baton("down", environment=environment)


def baton(*words: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "cluster.cli", *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def run(name: str, planner: dict[str, Any], planned: Sequence[Planned]) -> dict[str, Any]:
    with cluster(planner) as (url, environment):
        done = asyncio.run(play(url, planned))
        pilot = json.loads(baton("status", "--json", environment=environment))["autopilot"]
    halves = [[one for one in done if (one.at_s > done[-1].at_s / 2) is late] for late in (False, True)]
    shares = [sum(one.is_good for one in half) / max(len(half), 1) for half in (done, *halves)]
    num_failed = sum(not one.is_whole for one in done)
    changes = [one for one in pilot["decisions"] if one["state"] in ("applied", "rolled back")]
    print(
        f"{name:8} {len(done)} requests, attainment {shares[0]:.1%} "
        f"(first half {shares[1]:.1%}, second {shares[2]:.1%}), failed {num_failed}, changes {len(changes)}",
        flush=True,
    )
    for one in pilot["decisions"]:
        print(f"    {one['state']}: {one['what']}: {one['why']}")
    if pilot["mode"] != "off":
        print(f"    a look takes {pilot['look_s']:.2f} s of CPU, {pilot['cpu_share']:.1%} of a core in all")
    return {"attainment": shares[0], "num_failed": num_failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("static", "act"))
    parser.add_argument("--quick", action="store_true", help="a minute of each")
    args = parser.parse_args()
    args.minutes = min(args.minutes, 1.0) if args.quick else args.minutes
    announce("bench.autopilot_real", about_s=120 * args.minutes + 120)
    planned = plan(args.minutes, args.seed)
    print(f"{len(planned)} requests in {math.ceil(60 * args.minutes)} s, TTFT {TTFT_MS:g} ms, TPOT {TPOT_MS:g} ms")
    runs: dict[str, dict[str, Any]] = {"static": {"mode": "off"}, "act": PLANNER}
    for name, planner in runs.items():
        if args.only in (None, name):
            run(name, planner, planned)


if __name__ == "__main__":
    main()
