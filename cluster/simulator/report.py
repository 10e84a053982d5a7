"""What a simulation comes to: percentiles, attainment, utilisation, and what its faults cost. Pure.

Times of requests are over the finished ones; attainment is over all that arrived, one that failed met nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.contracts.simulation import Fault, RequestRecord, SimCluster, SimResult
from cluster.contracts.slo import SLO, attainment

QUANTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Milliseconds; nan where nothing was to be measured."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUse:
    worker_id: str
    busy: float  # share of the simulated time spent in steps
    peak_blocks: float  # share of its blocks in use at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    num_requests: int
    num_finished: int
    errors: dict[str, int]  # code -> requests
    ttft: Percentiles
    tpot: Percentiles  # of requests with two tokens or more
    e2e: Percentiles
    attainment: float  # both limits
    ttft_attainment: float
    tpot_attainment: float
    requests_per_s: float  # finished, from the first arrival to the last end
    output_tokens_per_s: float
    workers: tuple[WorkerUse, ...]
    num_preemptions: int
    num_retried: int  # requests that took more than one attempt
    num_disaggregated: int  # requests whose prompt a prefill worker read
    cached: float  # share of prompt tokens found in a prefix cache
    bytes_sent: float
    end_s: float


def summarize(result: SimResult, cluster: SimCluster, slo: SLO) -> Report:
    finished = [record for record in result.records if is_finished(record)]
    started_s = min((record.arrived_s for record in result.records), default=0.0)
    span_s = max((record.finished_s for record in finished), default=started_s) - started_s
    per_s = 1 / span_s if span_s > 0 else math.nan
    num_prompt_tokens = sum(record.num_prompt_tokens for record in result.records)
    return Report(
        num_requests=len(result.records),
        num_finished=len(finished),
        errors=dict(Counter(record.error or "unfinished" for record in result.records if not is_finished(record))),
        ttft=percentiles_ms([record.ttft_s for record in finished]),
        tpot=percentiles_ms([record.tpot_s for record in finished if record.num_output_tokens > 1]),
        e2e=percentiles_ms([record.finished_s - record.arrived_s for record in finished]),
        attainment=attainment(slo, map(_times_s, result.records)),
        ttft_attainment=_share([_times_s(record)[0] <= slo.ttft_s for record in result.records]),
        tpot_attainment=_share([_times_s(record)[1] <= slo.tpot_s for record in result.records]),
        requests_per_s=len(finished) * per_s,
        output_tokens_per_s=sum(record.num_output_tokens for record in finished) * per_s,
        workers=_uses(result, cluster),
        num_preemptions=result.num_preemptions,
        num_retried=sum(record.num_attempts > 1 for record in result.records),
        num_disaggregated=sum(bool(record.prefill_id) for record in result.records),
        cached=sum(record.num_cached_tokens for record in result.records) / max(num_prompt_tokens, 1),
        bytes_sent=result.bytes_sent,
        end_s=result.end_s,
    )


def is_finished(record: RequestRecord) -> bool:
    return not record.error and not math.isnan(record.finished_s)


def percentiles_ms(values_s: Sequence[float]) -> Percentiles:
    if not values_s:
        return Percentiles(mean=math.nan, p50=math.nan, p90=math.nan, p99=math.nan)
    values = np.asarray(values_s) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(values, QUANTILES))
    return Percentiles(mean=float(values.mean()), p50=p50, p90=p90, p99=p99)


def _times_s(record: RequestRecord) -> tuple[float, float]:
    return (record.ttft_s, record.tpot_s) if is_finished(record) else (math.nan, math.nan)


def _share(met: Sequence[bool]) -> float:
    return sum(met) / len(met) if met else 0.0


def _uses(result: SimResult, cluster: SimCluster) -> tuple[WorkerUse, ...]:
    num_blocks = {pool.role.value: pool.num_blocks for pool in cluster.pools}
    return tuple(
        WorkerUse(
            worker_id=worker_id,
            busy=result.busy_s[worker_id] / result.end_s if result.end_s else 0.0,
            peak_blocks=result.peak_blocks.get(worker_id, 0) / num_blocks[worker_id.split("-")[0]],
        )
        for worker_id in sorted(result.busy_s)
    )


def to_json(
    report: Report,
    result: SimResult,
    *,
    seed: int,
    faults: Sequence[Fault] = (),
    without_faults: Report | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain values; nan becomes None. `about`: what was simulated, in the caller's words."""
    content: dict[str, Any] = {
        **(about or {}),
        "seed": seed,
        "trace_hash": result.trace_hash,
        "num_events": result.num_events,
        **_times_in_ms(asdict(report)),
        "faults": [asdict(fault) for fault in faults],
        "without_faults": None if without_faults is None else _times_in_ms(asdict(without_faults)),
        "records": [record_json(record) for record in result.records],
    }
    plain: dict[str, Any] = _without_nan(content)
    return plain


def record_json(record: RequestRecord) -> dict[str, Any]:
    return {**asdict(record), "ttft_s": record.ttft_s, "tpot_s": record.tpot_s}


def _times_in_ms(content: dict[str, Any]) -> dict[str, Any]:
    """Units belong to names: {"ttft": ...} becomes {"ttft_ms": ...}."""
    return {f"{name}_ms" if name in ("ttft", "tpot", "e2e") else name: value for name, value in content.items()}


def _without_nan(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
