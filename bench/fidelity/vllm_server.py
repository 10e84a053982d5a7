"""Which of the servers a run of vLLM was measured on, by the pace at which it read prompts that did not wait.

A line below which one tenth of the first tokens lie, fitted over prompts' lengths (quantile regression): waiting only
lifts a point, so the line's slope is the server's own, at any load. Of the runs at hand the early server's are 0.126 to
0.130 ms a token, the late one's 0.140 to 0.142. Nothing else of the measured latencies is looked at.
"""

import numpy as np

from bench.fidelity.distserve_runs import DistserveRun

QUANTILE = 0.1
MIN_TOKENS = 200  # shorter prompts are read in the time that a step takes anyhow
PACES_MS = np.arange(0.08, 0.22, 0.001)  # per token
BETWEEN_MS = 0.135


def prompt_pace_ms(run: DistserveRun) -> float:
    """What one more prompt token takes."""
    lengths = np.array([arrival.num_prompt_tokens for arrival in run.arrivals], float)
    is_long = lengths > MIN_TOKENS
    if not is_long.any():
        return float("nan")
    above = run.ttft_ms[is_long] - PACES_MS[:, None] * lengths[is_long]  # [paces, requests]
    above -= np.quantile(above, QUANTILE, axis=1, keepdims=True)
    losses = np.where(above > 0, QUANTILE * above, (QUANTILE - 1) * above).mean(axis=1)
    return float(PACES_MS[np.argmin(losses)])


def server(run: DistserveRun) -> str:
    """The key of its constants: `distserve`, `vllm-early` or `vllm-late`."""
    if run.system != "vllm":
        return run.system
    return "vllm-late" if prompt_pace_ms(run) > BETWEEN_MS else "vllm-early"
