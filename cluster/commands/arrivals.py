"""The requests that `baton plan` and `baton simulate` are asked about: read from a trace, or made up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from baton.errors import ConfigError
from cluster.commands.load_options import INPUT_LEN, OUTPUT_LEN, LoadOptions
from cluster.planner import workload
from cluster.planner.lengths import Constant, Independent, Length, Lognormal
from cluster.simulator.contract import Arrival
from cluster.trace_file import read_trace

MEDIAN_SHARE = 0.8  # of the mean: how long-tailed synthetic lengths are


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    arrivals: Sequence[Arrival]
    described: str
    notes: Sequence[str]


def read_requests(
    load: LoadOptions, *, num_synthetic: int, seed: int, model: str, max_model_len: int, block_size: int
) -> Requests:
    """
    Args:
        num_synthetic: How many to make up, without a trace.
        model: Its name in errors.
    Raises:
        ConfigError: A trace that is wrong, or whose requests the model cannot hold.
    """
    rng = np.random.default_rng(seed)
    if load.trace is None:
        arrivals = _synthetic(load, num_synthetic, rng)
        lengths = f"{load.input_len or INPUT_LEN} + {load.output_len or OUTPUT_LEN}"
        described = f"synthetic requests of {lengths} tokens on average"
    else:
        rows = read_trace(load.trace, limit=load.limit)
        arrivals = workload.from_trace(rows, block_size=block_size, rng=rng)
        if load.rate is not None:
            arrivals = workload.rescale(arrivals, load.rate)
        described = f"{len(arrivals)} requests of {load.trace.name}"
    fitted, num_cut = workload.clip(arrivals, max_model_len, block_size=block_size)
    if num_cut and load.trace is not None and not load.clip:
        raise ConfigError(_too_long(load, arrivals, num_cut, model, max_model_len))
    cut = f"{num_cut} of {len(fitted)} requests were cut to the context of {max_model_len} tokens"
    return Requests(arrivals=fitted, described=described, notes=(cut,) if num_cut else ())


def _synthetic(load: LoadOptions, num_requests: int, rng: np.random.Generator) -> list[Arrival]:
    assert load.rate is not None, "LoadOptions.check asks for it"
    return workload.synthetic(
        Independent(prompt=_length(load.input_len or INPUT_LEN), output=_length(load.output_len or OUTPUT_LEN)),
        rate=load.rate,
        num_requests=num_requests,
        gap_cv=1.0 if load.gap_cv is None else load.gap_cv,
        rng=rng,
    )


def _length(mean: int) -> Length:
    median = mean * MEDIAN_SHARE
    return Lognormal(mean=mean, median=median) if median >= 1 else Constant(value=mean)


def _too_long(load: LoadOptions, arrivals: Sequence[Arrival], num_cut: int, model: str, limit: int) -> str:
    prompt, output = next(
        (one.num_prompt_tokens, one.num_output_tokens)
        for one in arrivals
        if one.num_prompt_tokens + one.num_output_tokens > limit
    )
    return (
        f"--trace {load.trace}: {num_cut} of {len(arrivals)} requests exceed {model}'s context of {limit} tokens, "
        f"the first with {prompt} + {output}; give --clip to cut them, or a model with a longer context"
    )
