"""How far the planner's roofline is from measured points, per source: `python -m bench.roofline_error DATA`.

DATA holds aiconfigurator/silicon_sample.csv (serving runs, by NVIDIA's aiconfigurator project), distserve_ground_truth/
profile_data (fits of kernels' times) and splitwise_sim/perf_model.csv (single batches). The constants per family of
devices are in `cluster.planner.devices`; nothing is fitted here. Splitwise's engine of 2023 is another system than the
one the constants stand for, and shown to say how far that goes.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cluster.planner.coefficients import CoefficientLatency
from cluster.planner.devices import known_device
from cluster.planner.known_models import known_model
from cluster.planner.latency import LatencyModel, Parallelism, PromptChunk
from cluster.planner.model_spec import ModelSpec
from cluster.planner.roofline import RooflineLatency

SYSTEMS = {"h100_sxm": "h100", "h200_sxm": "h200", "a100-80gb": "a100-80g", "h100-80gb": "h100"}
MODELS = {
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "llama2-70b": "meta-llama/Llama-2-70b-hf",
}


class Point(NamedTuple):
    source: str
    predicted_s: float
    measured_s: float


def serving_points(path: Path) -> Iterator[Point]:
    """TPOT of closed loops: all of `batch_size` requests decode, and one prompt joins per osl / batch_size steps."""
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            model = _silicon_model(row)
            if model is None or row["mode"] != "agg" or row["attention_dp_size"] not in ("", "1"):
                continue
            parallelism = Parallelism(tensor=int(row["tp_size"]), pipeline=int(row["pp_size"]))
            if not model.allows_tensor_parallel(parallelism.tensor):
                continue
            latency = RooflineLatency.of(model, known_device(SYSTEMS[row["system"]]), parallelism)
            isl, osl, batch = int(row["isl"]), int(row["osl"]), int(row["batch_size"])
            precision = row["precision"] or "bf16"
            yield Point(
                f"{row['backend']} {row['model_path'].split('/')[-1]} {precision} {row['system']} TPOT",
                steady_tpot_s(latency, isl, osl, batch),
                float(row["silicon_tpot_ms"]) / 1000,
            )


def steady_tpot_s(latency: LatencyModel, isl: int, osl: int, batch: int) -> float:
    """Mean step of a full engine: `batch` decodes half-way through, one whole prompt in batch / osl of the steps."""
    context = batch * (isl + osl // 2)
    decode_s = latency.step_s((), batch, context)
    mixed_s = latency.step_s((PromptChunk(isl, 0),), batch, context)
    return decode_s + (mixed_s - decode_s) * batch / osl


def _silicon_model(row: dict[str, str]) -> ModelSpec | None:
    name = MODELS.get(row["model_path"], row["model_path"])
    if row["system"] not in SYSTEMS or not name.startswith(("meta-llama/", "Qwen/Qwen3-")):
        return None
    model = known_model(name)
    fp8 = replace(model.weights, dense=1.0, experts=1.0)  # embeddings and head stay as they are
    return replace(model, weights=fp8) if row["precision"] == "fp8" else model


def distserve_points(path: Path) -> Iterator[Point]:
    profile = json.loads(path.read_text(encoding="utf-8"))
    device = known_device("a100-80g")
    for name, degrees in profile.items():
        for degree in map(int, degrees):
            parallelism = Parallelism(tensor=degree)
            if not known_model(name).allows_tensor_parallel(degree):
                continue
            roofline = RooflineLatency.of(known_model(name), device, parallelism)
            fitted = CoefficientLatency.from_profile(profile, name, parallelism)
            source = f"distserve {name.split('/')[-1]} a100"
            for length in (64, 128, 256, 512, 1024, 2000):
                chunk = (PromptChunk(length, 0),)
                yield Point(f"{source} prefill", roofline.step_s(chunk, 0, 0), fitted.step_s(chunk, 0, 0))
            for batch, context in ((1, 200), (8, 300), (32, 300), (64, 300), (128, 300), (32, 1000)):
                asked = ((), batch, batch * context)
                yield Point(f"{source} decode", roofline.step_s(*asked), fitted.step_s(*asked))


def splitwise_points(path: Path) -> Iterator[Point]:
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["model"] not in MODELS or row["hardware"] not in SYSTEMS:
                continue
            parallelism = Parallelism(tensor=int(row["tensor_parallel"]))
            device = known_device(SYSTEMS[row["hardware"]])
            latency = RooflineLatency.of(known_model(MODELS[row["model"]]), device, parallelism)
            batch, length = int(row["batch_size"]), int(row["prompt_size"])
            context = batch * (length + int(row["token_size"]) // 2)
            source = f"splitwise llama2-70b {device.name}"
            prompt_s = latency.step_s([PromptChunk(length, 0)] * batch, 0, 0)
            if batch == 1:
                yield Point(f"{source} prefill", prompt_s, float(row["prompt_time"]) / 1000)
            yield Point(f"{source} decode", latency.step_s((), batch, context), float(row["token_time"]) / 1000)


def all_points(data: Path) -> Iterator[Point]:
    yield from serving_points(data / "aiconfigurator" / "silicon_sample.csv")
    yield from distserve_points(data / "distserve_ground_truth" / "profile_data" / "profiler-a100-80g.distserve.json")
    yield from splitwise_points(data / "splitwise_sim" / "perf_model.csv")


def main(data: Path) -> None:
    groups: dict[str, list[float]] = defaultdict(list)
    for point in all_points(data):
        groups[point.source].append(point.predicted_s / point.measured_s - 1)
    print(f"{'predicted / measured - 1, in %':<52} {'points':>6} {'median':>7} {'|median|':>8} {'|p90|':>6}")
    for source, errors in groups.items():
        median, size, far = np.median(errors), np.median(np.abs(errors)), np.percentile(np.abs(errors), 90)
        print(f"{source:<52} {len(errors):>6} {100 * median:>+7.1f} {100 * size:>8.1f} {100 * far:>6.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder with the three data sets")
    main(parser.parse_args().data)
