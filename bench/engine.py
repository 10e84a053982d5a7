"""One worker's engine beside transformers and vLLM's CPU build, on the same cores.

    python -m bench.engine --against transformers,vllm --vllm-python ENV/bin/python --json engine.json

The model is a 156 M-parameter Llama in bfloat16 with random weights. Each side is a process of its own, pinned to the
same cores, stopped (SIGSTOP) while another one is measured. Runs are interleaved: every side once per round; figures
are medians over the rounds. Bars: at least 1.0 x vLLM at each point but the last; at least 2 x the better of
transformers' two ways on 16 ragged requests.

`decode N`: ms per step, from two jobs that differ by DECODE_STEPS tokens per request. `prefill`: ms to the first token
of a 2,048-token prompt. `ragged`: tokens per second of 16 requests of unlike lengths that arrive together.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.models import LLAMA_150M, write_dummy

ROOT = Path(__file__).resolve().parent.parent
DECODE_STEPS = 32
PROMPT_TOKENS = 64
RAGGED = [(48 + 29 * i, 32 + 6 * ((7 * i) % 16)) for i in range(16)]  # (prompt, output) tokens: 48-483, 32-122
POINTS = ("decode 1", "decode 16", "decode 64", "prefill 2048", "ragged 16")
WAYS_OF_TRANSFORMERS = ("transformers", "transformers-batch")
BAR_VLLM, BAR_TRANSFORMERS = 1.0, 2.0

console = Console()


@dataclass(frozen=True, slots=True)
class Job:
    prompts: list[list[int]]
    num_outputs: list[int]


def prompt_of(length: int, seed: int) -> list[int]:
    return [(7919 * seed + 31 * i) % (LLAMA_150M.vocab - 1) + 1 for i in range(length)]


def jobs_of(point: str) -> list[Job]:
    """One job, or two that differ by DECODE_STEPS tokens per request, shorter one first."""
    kind, size = point.split()
    if kind == "decode":
        prompts = [prompt_of(PROMPT_TOKENS, i) for i in range(int(size))]
        return [Job(prompts, [count] * len(prompts)) for count in (1, 1 + DECODE_STEPS)]
    if kind == "prefill":
        return [Job([prompt_of(int(size), 1)], [1])]
    return [Job([prompt_of(length, i) for i, (length, _) in enumerate(RAGGED)], [count for _, count in RAGGED])]


def figure_of(point: str, seconds: Sequence[float]) -> float:
    """ms per step, ms, or tokens per second; see the module's text."""
    if point.startswith("decode"):
        return (seconds[1] - seconds[0]) / DECODE_STEPS * 1e3
    if point.startswith("prefill"):
        return seconds[0] * 1e3
    return sum(count for _, count in RAGGED) / seconds[0]


def advantage(point: str, mine: float, other: float) -> float:
    """How many times faster `mine` is."""
    return mine / other if point.startswith("ragged") else other / mine


class Side:
    """One engine's process, stopped except while it works."""

    def __init__(self, name: str, python: str, folder: Path, cores: Sequence[int], log: Path) -> None:
        self.name = name
        self.log = log
        threads = str(len(cores))
        bind = f"{cores[0]}-{cores[-1]}" if list(cores) == list(range(cores[0], cores[-1] + 1)) else ""
        env = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": bind or ",".join(map(str, cores)),
        }
        self._process = subprocess.Popen(
            [python, "-m", "bench.engine_sides", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=ROOT,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self._answer()
        self._signal(signal.SIGSTOP)

    def seconds(self, job: Job) -> float:
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": job.prompts, "num_outputs": job.num_outputs}) + "\n")
        self._process.stdin.flush()
        found = float(self._answer()["seconds"])
        self._signal(signal.SIGSTOP)
        return found

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise RuntimeError(f"{self.name} ended: {tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)


@dataclass(slots=True)
class Results:
    """`figures[side][point]`: one per round."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # side -> why

    def median(self, side: str, point: str) -> float | None:
        values = self.figures.get(side, {}).get(point)
        return statistics.median(values) if values else None

    def ratio(self, point: str, others: Sequence[str]) -> float | None:
        """How many times faster than the fastest of `others`: the median over rounds of the round's own ratio."""
        mine = self.figures.get("baton", {}).get(point, [])
        rivals = [self.figures[o][point] for o in others if self.figures.get(o, {}).get(point)]
        if not mine or not rivals:
            return None
        return statistics.median(
            min(advantage(point, a, b) for b in row) for a, *row in zip(mine, *rivals, strict=True)
        )


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        flags = info.read_text()
        model = found[0] if found else model
        model += "".join(f" +{name}" for name in ("avx2", "avx512_bf16", "amx_bf16") if name in flags)
    return model


def measure(sides: Sequence[Side], points: Sequence[str], rounds: int) -> Results:
    results = Results()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("warming up", total=(rounds + 1) * len(points) * len(sides))
        for number in range(rounds + 1):  # the first is not counted
            for point in points:
                for side in sides:
                    if side.name == "transformers-batch" and not point.startswith("ragged"):
                        progress.advance(task)
                        continue
                    figure = figure_of(point, [side.seconds(job) for job in jobs_of(point)])
                    if number:
                        results.figures.setdefault(side.name, {}).setdefault(point, []).append(figure)
                    progress.update(task, advance=1, description=f"round {number} of {rounds}: {point}, {side.name}")
    return results


def show(results: Results, points: Sequence[str], names: Sequence[str], cores: Sequence[int]) -> None:
    table = Table(title=f"150 M Llama, bfloat16, {len(cores)} cores of {machine()}")
    for column in ("point", "unit", *names, "baton : vllm", "baton : transformers"):
        table.add_column(column, justify="left" if column in ("point", "unit") else "right")
    for point in points:
        unit = "tok/s" if point.startswith("ragged") else "ms" if point.startswith("prefill") else "ms/step"
        cells = [results.median(name, point) for name in names]
        ratios = (results.ratio(point, ["vllm"]), results.ratio(point, WAYS_OF_TRANSFORMERS))
        table.add_row(
            point,
            unit,
            *("-" if cell is None else f"{cell:.1f}" for cell in cells),
            *("-" if ratio is None else f"{ratio:.2f} x" for ratio in ratios),
        )
    console.print(table)
    for name, why in results.absent.items():
        console.print(f"{name}: absent, {why}", style="yellow")


def report(results: Results, points: Sequence[str], cores: Sequence[int]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "cores": list(cores),
        "figures": results.figures,
        "absent": results.absent,
        "ratios": {
            point: {
                "vllm": results.ratio(point, ["vllm"]),
                "transformers": results.ratio(point, WAYS_OF_TRANSFORMERS),
            }
            for point in points
        },
        "bars": {"vllm": BAR_VLLM, "transformers on ragged": BAR_TRANSFORMERS},
    }


def main(
    against: Annotated[str, typer.Option(help="transformers, vllm, both with a comma, or none")] = "transformers,vllm",
    vllm_python: Annotated[str | None, typer.Option(help="Python of an environment that has vllm-cpu")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved runs per point")] = 5,
    points: Annotated[str, typer.Option(help="which of: " + ", ".join(POINTS))] = ",".join(POINTS),
    cores: Annotated[str, typer.Option(help="CPU cores, such as 0,1; all by default")] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="where to write every figure")] = None,
) -> None:
    wanted = [name for name in against.split(",") if name not in ("", "none")]
    chosen = [point.strip() for point in points.split(",")]
    for value, known, option in ((wanted, ("transformers", "vllm"), "against"), (chosen, POINTS, "points")):
        unknown = [item for item in value if item not in known]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint=f"--{option}")
    pinned = [int(core) for core in cores.split(",")] if cores else sorted(os.sched_getaffinity(0))
    names = ["baton"]
    absent: dict[str, str] = {}
    if "vllm" in wanted:
        if vllm_python is None or not Path(vllm_python).is_file():
            absent["vllm"] = f"--vllm-python {vllm_python or 'was not given'}: no such Python; see docs of vllm-cpu"
        else:
            names.append("vllm")
    if "transformers" in wanted:
        names += WAYS_OF_TRANSFORMERS
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as scratch:
        folder = write_dummy(LLAMA_150M, Path(scratch))
        sides: list[Side] = []
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stopped process is left behind
        try:
            for name in names:
                console.print(f"starting {name}", style="dim")
                python = sys.executable if name != "vllm" else str(vllm_python)
                sides.append(Side(name, python, folder, pinned, folder / f"{name}.log"))
            results = measure(sides, chosen, rounds)
        finally:
            for side in sides:
                side.close()
    results.absent = absent
    show(results, chosen, names, pinned)
    if json_path is not None:
        json_path.write_text(json.dumps(report(results, chosen, pinned), indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
