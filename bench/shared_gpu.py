"""How long decodes take on a GPU while prompts are read beside them, by a worker of their own or in the same steps.

python -m bench.shared_gpu                  # Qwen3-8B's config, random weights, bfloat16; some 3 minutes of a GPU
python -m bench.shared_gpu --quick
python -m bench.shared_gpu --device cpu     # a dry run of the same code with a tiny model

A decode worker of 64 sequences of 1,000 tokens; beside it nobody, another process that reads one prompt of 2,048 tokens
after the other (the GPU's driver then gives each its turn), the same under NVIDIA's MPS where that is installed (both
run at once), and for comparison steps of one worker with 512 tokens of a prompt in each. Each process loads a model.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_check import speed
from bench.gpu_check.check import Check
from bench.gpu_check.shape import QWEN3_8B, TINY, Shape
from bench.gpu_device import GPUDevice, begin
from bench.machine import Quick, announce
from workers.model.contract import Batch
from workers.model.runner import TorchRunner

MPS = "nvidia-cuda-mps-control"
START_S = 300.0  # of the other process, which loads a model
NUM_MIXED_STEPS = 32


class Sizes:
    """Of the points, tiny in a dry run."""

    def __init__(self, device: str, *, quick: bool) -> None:
        self.is_dry = device == "cpu"
        self.shape: Shape = TINY if self.is_dry else QWEN3_8B
        self.batch, self.context = (2, 40) if self.is_dry else (64, 1000)
        self.prompt, self.chunk = (32, 16) if self.is_dry else (2048, 512)
        self.num_steps = 8 if self.is_dry else 100 if quick else 300


def loaded(check: Check, sizes: Sizes) -> TorchRunner:
    """With blocks for the decodes and for a prompt."""
    shape = replace(sizes.shape, batches=(sizes.batch,), prompts=(sizes.prompt, sizes.prompt), context=sizes.context)
    each = sizes.context + sizes.num_steps + 2 * speed.BLOCK_SIZE + speed.NUM_WARM_STEPS
    runner = speed.load(check, shape, sizes.batch * each + sizes.prompt + sizes.chunk * NUM_MIXED_STEPS)
    runner.warm_up()
    for layer in runner.store.layers:
        layer.normal_()
    return runner


def read_prompts(device: str) -> None:
    """The other process: reads prompts from a line on standard input to the next, and says how many tokens/s."""
    check = Check(device=device, tell=lambda _: None)
    sizes = Sizes(device, quick=True)
    runner = loaded(check, sizes)
    print(json.dumps({"ready": True}), flush=True)
    os.set_blocking(sys.stdin.fileno(), False)
    while not sys.stdin.buffer.readline():
        time.sleep(0.01)
    num_read, began_s = 0, time.perf_counter()
    while not sys.stdin.buffer.readline():
        runner.run(speed.prompt_batch(runner, sizes.prompt, 0))
        num_read += 1
    rate = num_read * sizes.prompt / (time.perf_counter() - began_s)
    print(json.dumps({"tokens_per_s": rate}), flush=True)


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """A daemon of our own, and the environment with which processes use it."""
    with tempfile.TemporaryDirectory(prefix="baton-mps-") as scratch:
        env = {"CUDA_MPS_PIPE_DIRECTORY": f"{scratch}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{scratch}/log"}
        for folder in env.values():
            Path(folder).mkdir()
        subprocess.run([MPS, "-d"], env=os.environ | env, check=True, timeout=30)
        try:
            yield env
        finally:
            subprocess.run([MPS], input=b"quit\n", env=os.environ | env, check=False, timeout=30)


def told(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        with suppress(ValueError):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError(f"the process that reads prompts ended with {process.wait()}")


def beside(device: str, quick: bool, env: Mapping[str, str]) -> dict[str, Any]:
    """What two processes give: decodes in one, prompts in the other."""
    command = [sys.executable, "-m", "bench.shared_gpu", "--device", device, "--part"]
    quickly = ["--quick"] if quick else []
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | env}
    with subprocess.Popen([*command, "prompts"], **pipes) as prompts:
        try:
            told(prompts)
            with subprocess.Popen([*command, "decodes", *quickly], **pipes) as decodes:
                try:
                    told(decodes)
                    _say(prompts)
                    _say(decodes)
                    found = told(decodes)
                    _say(prompts)
                    return found | told(prompts)
                finally:
                    decodes.kill()
        finally:
            prompts.kill()


def _say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def decode_alone(device: str, quick: bool) -> None:
    """A process: decodes, once told."""
    check, sizes = Check(device=device, tell=lambda _: None), Sizes(device, quick=quick)
    runner = loaded(check, sizes)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    print(json.dumps({"took_s": decodes(runner, check, sizes)}), flush=True)


def decodes(runner: TorchRunner, check: Check, sizes: Sizes) -> list[float]:
    shape = replace(sizes.shape, context=sizes.context)
    return speed.decode_steps(runner, check, shape, sizes.batch, sizes.num_steps)


def mixed(runner: TorchRunner, sizes: Sizes) -> dict[str, Any]:
    """Steps with a chunk of a prompt in each."""
    took_s = []
    for _ in range(NUM_MIXED_STEPS):
        batch: Batch = speed.mixed_batch(runner, sizes.batch, sizes.context, sizes.chunk)
        began_s = time.perf_counter()
        runner.run(batch)
        took_s.append(time.perf_counter() - began_s)
    took_s = took_s[2:]
    return {"took_s": took_s, "tokens_per_s": sizes.chunk / statistics.mean(took_s)}


def row(name: str, found: Mapping[str, Any]) -> list[str]:
    took_s = sorted(found["took_s"])
    rate = f"{found['tokens_per_s']:,.0f}" if "tokens_per_s" in found else "-"
    times = [statistics.median(took_s), took_s[int(0.99 * (len(took_s) - 1))], took_s[-1]]
    return [name, *(f"{1e3 * seconds:.2f}" for seconds in times), rate]


def main(
    device: GPUDevice = "cuda",
    quick: Quick = False,
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Decodes alone, beside prompts of another process, and with prompts in their steps."""
    begin("bench.shared_gpu", device)
    if part:
        return read_prompts(device) if part == "prompts" else decode_alone(device, quick)
    announce("bench.shared_gpu", about_s=90 if quick else 180, dtypes=("bfloat16",))
    check, sizes = Check(device=device, tell=lambda _: None), Sizes(device, quick=quick)
    table = Table("decodes", "median, ms", "p99", "longest", "prompt tokens/s")
    runner = loaded(check, sizes)
    table.add_row(*row("alone", {"took_s": decodes(runner, check, sizes)}))
    table.add_row(*row(f"with {sizes.chunk} tokens of a prompt in each step", mixed(runner, sizes)))
    del runner
    if device == "cuda":
        torch.cuda.empty_cache()
    table.add_row(*row("beside another process", beside(device, quick, {})))
    if device == "cuda" and shutil.which(MPS):
        with mps() as env:
            table.add_row(*row("beside another process, MPS", beside(device, quick, env)))
    else:
        print(f"MPS: no {MPS} here")
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
