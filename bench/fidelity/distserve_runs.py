"""Reads the published per-request runs of DistServe and of vLLM beside it (OPT-13B, A100-80G, ShareGPT lengths).

Folder, format and origin: `distserve_ground_truth/SOURCE.md`. A run's name says its system, requests and rate, e.g.
`vllm-300-3` or `distserve-c21d12-450-4.5`: prefill TP2 PP1, decode TP1 PP2.
"""

import ast
import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from baton.errors import ConfigError
from cluster.contracts.latency import Parallelism
from cluster.contracts.simulation import Arrival

FOLDER = "distserve_ground_truth"
RUNS = "opt-13b-sharegpt"
EXTRA = "extra_*"  # folders of more runs, each of another placement
DATA_VARIABLE = "BATON_DATA"

_NAME = re.compile(r"(?:(?P<vllm>vllm)|distserve-c(?P<prefill>\d\d)d(?P<decode>\d\d))-(?P<count>\d+)-(?P<rate>[\d.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistserveRun:
    """One measured run. The arrays are in order of arrival, one value for each of `arrivals`."""

    name: str
    rate: float  # requests/s
    started_s: float  # of the client's clock, which counts from its machine's start
    prefill: Parallelism
    decode: Parallelism | None  # None: one co-located worker of `prefill`'s degrees
    arrivals: tuple[Arrival, ...]
    ttft_ms: npt.NDArray[np.float64]
    tpot_ms: npt.NDArray[np.float64]

    @property
    def system(self) -> str:
        return "vllm" if self.decode is None else "distserve"


def find_folder(data: Path | None) -> Path | None:
    """`data` itself or the folder in it; without it, beside the checkout in ../shared/data; None: there is none.

    Raises:
        ConfigError: `data` was given and holds no runs.
    """
    if data is None:
        data = Path(os.environ.get(DATA_VARIABLE) or Path(__file__).parents[3] / "shared" / "data")
        return data / FOLDER if (data / FOLDER / RUNS).is_dir() else None
    for folder in (data, data / FOLDER):
        if (folder / RUNS).is_dir():
            return folder
    raise ConfigError(f"--data {data}: no {RUNS} in it or in its {FOLDER}; name the folder that SOURCE.md lies in")


def read_runs(folder: Path) -> list[DistserveRun]:
    """All runs whose name says a placement, co-located first, by rate and then by number of requests.

    Raises:
        ConfigError: No run is there, or a run's file is not what SOURCE.md says.
    """
    runs = []
    for path in sorted([*(folder / RUNS).glob("*.exp"), *folder.glob(f"{EXTRA}/*.exp")]):
        name = _NAME.fullmatch(path.stem)
        if name is not None:
            runs.append(_read_run(path, name))
    if not runs:
        raise ConfigError(f"{folder / RUNS}: no file like vllm-100-1.exp or distserve-c21d11-300-3.exp")
    return sorted(runs, key=lambda run: (run.decode is not None, run.rate, len(run.arrivals), run.name))


def read_profile(folder: Path, system: str) -> dict[str, Any]:
    """The published fits of a system: model -> TP degree -> coefficients in ms."""
    profile: dict[str, Any] = json.loads((folder / "profile_data" / f"profiler-a100-80g.{system}.json").read_text())
    return profile


def read_capacity(folder: Path) -> dict[tuple[str, int, int], int]:
    """(model, TP, PP) -> tokens of KV that such a worker holds."""
    with (folder / "profile_data" / "max_num_tokens.csv").open() as lines:
        return {
            (row["model"], int(row["tp"]), int(row["pp"])): int(row["max_num_tokens"]) for row in csv.DictReader(lines)
        }


def _read_run(path: Path, name: re.Match[str]) -> DistserveRun:
    try:
        with path.open() as lines:
            rows: list[dict[str, float]] = ast.literal_eval(lines.readline())
        rows.sort(key=lambda row: row["issue_time"])
        start_s = rows[0]["issue_time"]
        arrivals = tuple(
            Arrival(
                at_s=row["issue_time"] - start_s,
                num_prompt_tokens=int(row["prompt_len"]),
                num_output_tokens=int(row["output_len"]),
            )
            for row in rows
        )
        ttft_ms = np.array([row["ttft_ms"] for row in rows])
        tpot_ms = np.array([row["tpot_ms"] for row in rows])
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: line 1 is not a list of requests as SOURCE.md describes it: {error!r}") from error
    is_vllm = name["vllm"] is not None
    return DistserveRun(
        name=path.stem,
        rate=float(name["rate"]),
        started_s=start_s,
        prefill=Parallelism() if is_vllm else _degrees(name["prefill"]),
        decode=None if is_vllm else _degrees(name["decode"]),
        arrivals=arrivals,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
    )


def _degrees(digits: str) -> Parallelism:
    return Parallelism(tensor=int(digits[0]), pipeline=int(digits[1]))
