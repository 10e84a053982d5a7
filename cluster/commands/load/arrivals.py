"""The requests that `baton plan` and `baton simulate` are asked about: read from a trace, or made up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from baton.errors import ConfigError
from cluster.commands.load.options import ArrivalOptions
from cluster.commands.load.synthetic import describe, synthetic
from cluster.contracts.simulation import Arrival
from cluster.load.trace_file import read_trace
from cluster.planner.load import workload

DAY_S = 86_400
MAX_SPAN_S = 100 * DAY_S  # of a workload: idle workers report twice a second


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadArrivals:
    arrivals: Sequence[Arrival]
    described: str
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Requests/s. Raises: ConfigError: they come all at once."""
        if self.arrivals[-1].at_s <= self.arrivals[0].at_s:
            raise ConfigError(f"{self.described}: all come at one instant, which is no rate; give two instants or more")
        return workload.mean_rate(self.arrivals)

    def at_rate(self, rate: float) -> "ReadArrivals":
        """Stretched evenly; bursts stay bursts. Raises: ConfigError: see `rate`."""
        factor = self.rate / rate
        return replace(self, arrivals=[replace(one, at_s=one.at_s * factor) for one in self.arrivals])


def read_requests(
    load: ArrivalOptions, *, num_synthetic: int, seed: int, model: str, max_model_len: int, block_size: int
) -> ReadArrivals:
    """
    Args:
        num_synthetic: How many to make up, without a trace.
        model: Its name in errors.
    Raises:
        ConfigError: A trace that is wrong, or whose requests the model cannot hold; see `synthetic`.
    """
    rng = np.random.default_rng(seed)
    if load.trace is None:
        arrivals = synthetic(
            load, num_requests=num_synthetic, max_model_len=max_model_len, block_size=block_size, rng=rng
        )
        requests = ReadArrivals(arrivals=arrivals, described=describe(load))
    else:
        arrivals = workload.from_trace(read_trace(load.trace, limit=load.limit), block_size=block_size, rng=rng)
        requests = ReadArrivals(arrivals=arrivals, described=f"{len(arrivals)} requests of {load.trace.name}")
        requests = requests.at_rate(load.rate) if load.rate is not None else requests
    _check_span(requests.arrivals)
    return _fitted(requests, load, model, max_model_len, block_size)


def _check_span(arrivals: Sequence[Arrival]) -> None:
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    if span_s > MAX_SPAN_S:
        raise ConfigError(
            f"{len(arrivals)} requests come over {span_s / DAY_S:.3g} days, {MAX_SPAN_S // DAY_S} are allowed; "
            "give a higher --rate, or fewer requests"
        )


def _fitted(requests: ReadArrivals, load: ArrivalOptions, model: str, limit: int, block_size: int) -> ReadArrivals:
    """Synthetic lengths are drawn, so they are cut in any case; a trace's only when told to."""
    fitted, num_cut = workload.clip(requests.arrivals, limit, block_size=block_size)
    if not num_cut:
        return requests
    if load.trace is not None and not load.clip:
        raise ConfigError(_too_long(load, requests.arrivals, num_cut, model, limit))
    return replace(
        requests,
        arrivals=fitted,
        notes=(f"{num_cut} of {len(fitted)} requests were cut to the context of {limit} tokens",),
    )


def _too_long(load: ArrivalOptions, arrivals: Sequence[Arrival], num_cut: int, model: str, limit: int) -> str:
    prompt, output = next(
        (one.num_prompt_tokens, one.num_output_tokens)
        for one in arrivals
        if one.num_prompt_tokens + one.num_output_tokens > limit
    )
    return (
        f"--trace {load.trace}: {num_cut} of {len(arrivals)} requests exceed {model}'s context of {limit} tokens, "
        f"the first with {prompt} + {output}; give --clip to cut them, or a model with a longer context"
    )
