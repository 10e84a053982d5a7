"""How far the planner's roofline is from measured points, per source: `python -m bench.roofline_error DATA`.

DATA holds aiconfigurator/silicon_sample.csv (serving runs, by NVIDIA's aiconfigurator project), distserve_ground_truth/
profile_data (fits of kernels' times) and splitwise_sim/perf_model.csv (single batches). The constants per family of
devices are in `cluster.planner.costs.devices`; nothing is fitted here. Splitwise's engine of 2023 is another system
than the one the constants stand for, and shown to say how far that goes.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.machine import announce
from cluster.contracts.latency import LatencyModel, Parallelism, PromptChunk
from cluster.planner.costs.coefficients import CoefficientLatency
from cluster.planner.costs.devices import DeviceSpec, known_device
from cluster.planner.costs.roofline import RooflineLatency
from cluster.planner.models.known_models import known_model
from cluster.planner.models.model_spec import ModelSpec

SYSTEMS = {"h100_sxm": "h100", "h200_sxm": "h200", "a100-80gb": "a100-80g", "h100-80gb": "h100"}
MODELS = {
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "llama2-70b": "meta-llama/Llama-2-70b-hf",
}
# Checkpoints whose hf_quant_config.json asks for KV in fp8 beside the weights (kv_cache_quant_algo).
FP8_KV = frozenset({"nvidia/Llama-3.1-8B-Instruct-FP8"})
NUM_ROUNDS = 8  # until the batch and its step agree
# Of the data sheet's figures, what the best tenth of the kernels in aiconfigurator's tables reach (products of 2,048
# rows and more, vLLM 0.14 to 0.24, TensorRT-LLM 1.3, SGLang 0.5, H100 and H200), and a whole-memory copy.
BEST_BF16, BEST_FP8, BEST_MEMORY = 0.89, 0.74, 0.95


class Point(NamedTuple):
    source: str
    predicted_s: float
    measured_s: float
    prompt_share: float = 0.0  # of the predicted time, that prompts of others take
    is_possible: bool = True  # whether the devices can do what the row says was done


def serving_points(path: Path) -> Iterator[Point]:
    """TPOT of closed loops whose attention and experts lie on the same devices."""
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            model = _silicon_model(row)
            if model is None or row["mode"] != "agg" or row["attention_dp_size"] not in ("", "1"):
                continue
            parallelism = Parallelism(tensor=int(row["tp_size"]), pipeline=int(row["pp_size"]))
            experts_on = int(row["moe_tp_size"] or 1) * int(row["moe_ep_size"] or 1)
            is_split = model.has_experts and experts_on != parallelism.tensor
            if is_split or not model.allows_tensor_parallel(parallelism.tensor):
                continue
            yield _serving_point(row, model, parallelism)


def _serving_point(row: dict[str, str], model: ModelSpec, parallelism: Parallelism) -> Point:
    device = known_device(SYSTEMS[row["system"]])
    loop = ClosedLoop(
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        num_clients=int(row["batch_size"]),
        ttft_s=float(row["silicon_ttft_ms"]) / 1000,
        max_context=kv_tokens(model, device, parallelism),
    )
    latency = RooflineLatency.of(model, device, parallelism)
    measured_s = float(row["silicon_tpot_ms"]) / 1000
    predicted_s, batch = loop.tpot_s(latency)
    decode_s = latency.step_s((), batch, batch * loop.mean_context)
    return Point(
        source=f"{row['backend']} {row['model_path'].split('/')[-1]} {row['precision'] or 'bf16'} {row['system']} TPOT",
        predicted_s=predicted_s,
        measured_s=measured_s,
        prompt_share=1 - decode_s / predicted_s,
        is_possible=loop.load(model, device, parallelism, measured_s) <= 1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """`num_clients` ask again as soon as they have their answer.

    By Little's law those that wait for their first token, `ttft_s` as measured, are not in the batch. Where all
    answers are equally long, clients ask together, and many prompts wait for each other.
    """

    isl: int
    osl: int
    num_clients: int
    ttft_s: float
    max_context: int  # tokens of KV that the devices hold

    @property
    def mean_context(self) -> int:
        return self.isl + self.osl // 2

    def tpot_s(self, latency: LatencyModel) -> tuple[float, int]:
        """And the batch that it is of."""
        holds = max(self.max_context // self.mean_context, 1)
        batch = min(self.num_clients, holds)
        for _ in range(NUM_ROUNDS):
            decoding_s = steady_tpot_s(latency, self.isl, self.osl, batch) * (self.osl - 1)
            decoding = round(self.num_clients * decoding_s / (decoding_s + self.ttft_s))
            batch = max(min(decoding, holds), 1)
        return steady_tpot_s(latency, self.isl, self.osl, batch), batch

    def load(self, model: ModelSpec, device: DeviceSpec, parallelism: Parallelism, tpot_s: float) -> float:
        """Of what the best kernels reach: prompts' operations, and the KV that decodes read, one after the other."""
        decoding_s = tpot_s * (self.osl - 1)
        answers_per_s = self.num_clients / (decoding_s + self.ttft_s)
        flops, best = (device.bf16_flops, BEST_BF16) if model.weights.dense > 1 else (device.fp8_flops or 0.0, BEST_FP8)
        prompts = answers_per_s * model.prefill_flops(self.isl) / (flops * best * parallelism.num_devices)
        kv_bytes = answers_per_s * decoding_s * self.mean_context * model.kv_bytes_per_token / tpot_s
        return prompts + kv_bytes / (device.memory_bandwidth * BEST_MEMORY * parallelism.num_devices)


def kv_tokens(model: ModelSpec, device: DeviceSpec, parallelism: Parallelism) -> int:
    """At most: all memory that weights leave."""
    tensor = parallelism.tensor
    token_bytes = model.kv_bytes_per_token * model.num_kv_copies(tensor) / tensor
    return int((device.memory_bytes - model.weight_bytes / tensor) / token_bytes)


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
    if row["precision"] != "fp8":
        return model
    fp8 = replace(model.weights, dense=1.0, experts=1.0)  # embeddings and head stay as they are
    kv_element_bytes = 1 if row["model_path"] in FP8_KV else model.kv_element_bytes
    return replace(model, weights=fp8, kv_element_bytes=kv_element_bytes)


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


QUICK_STRIDE = 4


def main(data: Path, *, quick: bool) -> None:
    announce("bench.roofline_error", about_s=3 if quick else 10)
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in islice(all_points(data), 0, None, QUICK_STRIDE if quick else 1):
        groups[point.source].append(point)
    print(
        f"{'predicted / measured - 1, in %':<52} {'points':>6} {'median':>7} {'|median|':>8} {'|p90|':>6} "
        f"{'decodes*':>12} {'beyond**':>8}"
    )
    for source, points in groups.items():
        possible = [point for point in points if point.is_possible]
        errors = [_error(point) for point in possible]
        median, size, far = np.median(errors), np.median(np.abs(errors)), np.percentile(np.abs(errors), 90)
        decodes = [_error(point) for point in possible if point.prompt_share < 0.5]
        told = f"{100 * np.median(decodes):+.1f} ({len(decodes)})" if decodes else "none"
        print(
            f"{source:<52} {len(errors):>6} {100 * median:>+7.1f} {100 * size:>8.1f} {100 * far:>6.1f} {told:>12} "
            f"{len(points) - len(possible):>8}",
            flush=True,
        )
    print("*  median of the points of which prompts take less than half, and their number")
    print("** points left out: more than the best kernels can do, so prompts must have come from a cache")


def _error(point: Point) -> float:
    return point.predicted_s / point.measured_s - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder with the three data sets")
    parser.add_argument("--quick", action="store_true", help="every fourth point")
    options = parser.parse_args()
    main(options.data, quick=options.quick)
