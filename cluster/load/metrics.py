"""Turns records into the figures of `vllm bench serve`, by its field names and its definitions.

TPOT leaves out answers of one token; ITL pools the gaps of all requests; failed requests count in `failed` alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.load.record import Record

METRICS = ("ttft", "tpot", "itl", "e2el")
PERCENTILES = (50, 90, 99)


def summarize(records: Sequence[Record], *, duration_s: float, goodput: Mapping[str, float]) -> dict[str, Any]:
    """All figures of a run, JSON-ready; those of an empty set are 0.

    Args:
        records: Of requests that have ended; interrupted ones are left out.
        duration_s: From the first request due to the last one ended, > 0.
        goodput: Targets in ms by metric; `request_goodput` counts the requests that meet all, None without any.
    """
    ended = [record for record in records if record.is_done]
    completed = [record for record in ended if record.is_completed]
    input_tokens = sum(record.prompt_tokens for record in completed)
    output_tokens = sum(record.output_tokens for record in completed)
    good = sum(_is_good(record, goodput) for record in completed)
    result: dict[str, Any] = {
        "completed": len(completed),
        "failed": len(ended) - len(completed),
        "interrupted": len(records) - len(ended),
        "duration": duration_s,
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": len(completed) / duration_s,
        "request_goodput": good / duration_s if goodput else None,
        "output_throughput": output_tokens / duration_s,
        "total_token_throughput": (input_tokens + output_tokens) / duration_s,
        "error_counts": dict(Counter(record.error for record in ended if record.error).most_common()),
        "p99_send_lag_ms": _percentile_ms([record.sent_s - record.due_s for record in ended], 99),
    }
    for metric, values_s in samples_s(completed).items():
        result |= _statistics(metric, values_s)
    return result


def samples_s(completed: Sequence[Record]) -> dict[str, list[float]]:
    """The values behind each metric, in seconds."""
    return {
        "ttft": [record.ttft_s for record in completed],
        "tpot": [record.tpot_s for record in completed if record.output_tokens > 1],
        "itl": [gap_s for record in completed for gap_s in record.itls_s],
        "e2el": [record.e2el_s for record in completed],
    }


def _is_good(record: Record, goodput: Mapping[str, float]) -> bool:
    values_s = {"ttft": record.ttft_s, "tpot": record.tpot_s, "e2el": record.e2el_s}
    return all(values_s[metric] * 1000 <= limit_ms for metric, limit_ms in goodput.items())


def _statistics(metric: str, values_s: list[float]) -> dict[str, float]:
    values_ms = np.array(values_s or [0.0]) * 1000
    figures = {
        f"mean_{metric}_ms": float(values_ms.mean()),
        f"median_{metric}_ms": float(np.median(values_ms)),
        f"std_{metric}_ms": float(values_ms.std()),
    }
    return figures | {f"p{q}_{metric}_ms": _percentile_ms(values_s, q) for q in PERCENTILES}


def _percentile_ms(values_s: list[float], q: int) -> float:
    return float(np.percentile(values_s or [0.0], q)) * 1000
