"""Makes up requests as the options say: how long, with which beginnings in common, and when."""

import numpy as np

from baton.errors import ConfigError
from cluster.commands.load.mix_option import read_mix
from cluster.commands.load.options import INPUT_LEN, OUTPUT_LEN, ArrivalOptions
from cluster.contracts.simulation import Arrival
from cluster.load.trace_file import read_trace
from cluster.planner.load import workload
from cluster.planner.load.lengths import Constant, Empirical, Independent, Length, Lognormal, Mix, Shape

MEDIAN_SHARE = 0.8  # of the mean: how long-tailed lengths are that are given by it


def synthetic(
    load: ArrivalOptions, *, num_requests: int, max_model_len: int, block_size: int, rng: np.random.Generator
) -> list[Arrival]:
    """
    Raises:
        ConfigError: A trace of lengths that is wrong, or a prefix that could not be shared.
    """
    assert load.rate is not None, "ArrivalOptions.check asks for it"
    if load.shared_prefix is not None:
        _check_prefix(load.shared_prefix, load.prefix_groups, num_requests, max_model_len, block_size)
    return workload.synthetic(
        _shape(load),
        rate=load.rate,
        num_requests=num_requests,
        gap_cv=1.0 if load.gap_cv is None else load.gap_cv,
        num_shared_tokens=load.shared_prefix or 0,
        num_groups=load.prefix_groups or 1,
        block_size=block_size,
        rng=rng,
    )


def describe(load: ArrivalOptions) -> str:
    """What is made up, in a few words."""
    if load.lengths_of is not None:
        lengths = f"with lengths of {load.lengths_of.name}"
    elif load.mix:
        kinds = read_mix(load.mix)
        total = sum(kind.share for kind in kinds)
        shares = (f"{100 * kind.share / total:.3g} % {kind.input_len} + {kind.output_len}" for kind in kinds)
        lengths = f"of {', '.join(shares)} tokens on average"
    else:
        lengths = f"of {load.input_len or INPUT_LEN} + {load.output_len or OUTPUT_LEN} tokens on average"
    if load.shared_prefix is None:
        return f"synthetic requests {lengths}"
    groups = load.prefix_groups or 1
    prefix = "a shared prefix" if groups == 1 else f"one of {groups} shared prefixes"
    return f"synthetic requests {lengths} after {prefix} of {load.shared_prefix} tokens"


def _shape(load: ArrivalOptions) -> Shape:
    if load.lengths_of is not None:
        rows = read_trace(load.lengths_of, limit=load.limit, flag="--lengths-of")
        return Empirical(pairs=[(row.input_len, row.output_len) for row in rows])
    if load.mix:
        return Mix(parts=[(kind.share, _lognormal(kind.input_len, kind.output_len)) for kind in read_mix(load.mix)])
    return _lognormal(load.input_len or INPUT_LEN, load.output_len or OUTPUT_LEN)


def _lognormal(input_len: int, output_len: int) -> Shape:
    return Independent(prompt=_length(input_len), output=_length(output_len))


def _length(mean: int) -> Length:
    median = mean * MEDIAN_SHARE
    return Lognormal(mean=mean, median=median) if median >= 1 else Constant(value=mean)


def _check_prefix(
    num_tokens: int, num_groups: int | None, num_requests: int, max_model_len: int, block_size: int
) -> None:
    if num_tokens < block_size:
        raise ConfigError(
            f"--shared-prefix {num_tokens} fills no block of {block_size} tokens, and whole blocks are shared; "
            f"give {block_size} or more"
        )
    if num_tokens >= max_model_len:
        raise ConfigError(
            f"--shared-prefix {num_tokens} leaves no room in a context of {max_model_len} tokens; give fewer"
        )
    if num_groups is not None and num_groups > num_requests:
        raise ConfigError(f"--prefix-groups {num_groups}: {num_requests} requests are made up; give so many or fewer")
