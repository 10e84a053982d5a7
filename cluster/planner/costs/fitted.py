"""Latencies of one machine, as `baton profile` measured them, and the file that keeps them.

A step is a constant, a curve over the tokens it computes (straight between knots: weights are read once for many
tokens), and terms for attention and sampling. All coefficients are >= 0, so more work never takes less time.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from baton.errors import ConfigError
from cluster.contracts.draft_chances import DraftChances
from cluster.contracts.latency import PromptChunk
from cluster.contracts.overheads import ALONE, Contention, Overheads
from cluster.planner.costs.transfer import Path
from cluster.planner.models.layer_spec import num_pairs

VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLatency:
    """See `cluster.contracts.latency.LatencyModel`; of one worker without pipeline stages.

    `slopes_s[i]` holds from `knots[i]` tokens to the next knot, the last one on; `knots[0]` is 0.
    """

    base_s: float  # every step
    prompt_s: float  # a step with prompts
    decode_s: float  # a step with decodes
    knots: tuple[int, ...]
    slopes_s: tuple[float, ...]  # per token that the step computes, prompt or decode
    chunk_s: float  # each prompt
    pair_s: float  # each (query, key) pair of a prompt's attention
    read_s: float  # each token of context before a chunk
    sequence_s: float  # each decode
    context_s: float  # each token of a decode's context
    _curve_s: tuple[float, ...] = field(init=False, repr=False, compare=False)  # at the knots

    def __post_init__(self) -> None:
        at_s, curve_s = 0.0, [0.0]
        for low, high, slope_s in zip(self.knots, self.knots[1:], self.slopes_s, strict=False):
            at_s += (high - low) * slope_s
            curve_s.append(at_s)
        object.__setattr__(self, "_curve_s", tuple(curve_s))

    @property
    def pipeline_stages(self) -> int:
        return 1

    def step_s(self, prompts: Sequence[PromptChunk], num_decodes: int, num_context: int) -> float:
        num_tokens, total_s = num_decodes, self.base_s
        if prompts:
            total_s += self.prompt_s + self.chunk_s * len(prompts)
            for num_new, num_before in prompts:
                num_tokens += num_new
                total_s += self.pair_s * num_pairs(num_new, num_before, None) + self.read_s * num_before
        elif not num_decodes:
            return 0.0
        if num_decodes:
            total_s += self.decode_s + self.sequence_s * num_decodes + self.context_s * num_context
        segment = bisect_right(self.knots, num_tokens) - 1
        return total_s + self._curve_s[segment] + self.slopes_s[segment] * (num_tokens - self.knots[segment])

    def decode_steps_s(self, num_decodes: int, num_context: int, num_steps: int) -> float:
        if not num_decodes:
            return 0.0
        growth = num_decodes * (num_steps * (num_steps - 1) // 2)
        return num_steps * self.step_s((), num_decodes, num_context) + self.context_s * growth

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    @classmethod
    def from_dict(cls, tree: object, where: str) -> Self:
        names = [each.name for each in fields(cls) if each.init]
        checked = _tree(tree, where, names)
        lists = {name: _numbers(checked[name], f"{where}.{name}") for name in ("knots", "slopes_s")}
        knots = tuple(int(knot) for knot in lists["knots"])
        if len(knots) != len(lists["slopes_s"]) or knots[:1] != (0,) or list(knots) != sorted(set(knots)):
            raise ConfigError(f"{where}.knots {list(knots)} must rise from 0, one per slope; {AGAIN}")
        others = {name: _number(checked[name], f"{where}.{name}") for name in names if name not in lists}
        return cls(**others, knots=knots, slopes_s=tuple(lists["slopes_s"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """How far a fit is from its own points: |predicted / measured - 1|."""

    num_points: int
    median: float
    p90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured of one model on one machine.

    `latencies` and `errors` by parallelism (`str(Parallelism)`, "1" for a plain worker) and by kind of step
    (prefill, decode, mixed); `transfers` by KV transport; `drafts` and `acceptance` by draft model: what its
    steps take, and how much of what it drafts is right.
    """

    model: str
    fingerprint: str  # of its weights
    dtype: str
    machine: str  # in words
    token_bytes: int  # KV of one token, all layers
    num_layers: int  # that hold KV
    max_model_len: int
    latencies: Mapping[str, FittedLatency]
    transfers: Mapping[str, Path] = field(default_factory=dict)
    drafts: Mapping[str, FittedLatency] = field(default_factory=dict)
    acceptance: Mapping[str, DraftChances] = field(default_factory=dict)
    errors: Mapping[str, FitError] = field(default_factory=dict)
    to_worker_s: float = 0.0  # from the caller to the worker's step
    to_client_s: float = 0.0  # from the end of a step to the caller
    handover_s: float = 0.0  # what a step of a prompt takes longer on a worker that hands it over
    receive_s: float = 0.0  # what the decode worker's steps take longer for each prompt that comes to it
    start_s: float = 0.0  # of a worker
    num_cores: int = 1  # of each rank; on a GPU, of what drives it
    state_bytes: int = 0  # of one sequence's state, all layers of linear attention; 0: the model has none
    kv_dtype: str = "auto"  # `kv.dtype` of its workers
    contention: Contention = ALONE  # between workers of the machine
    points: Mapping[str, Any] = field(default_factory=dict)  # what was fitted, as measured; kept, not read

    @property
    def overheads(self) -> Overheads:
        return Overheads(
            ingress_s=(self.to_worker_s + self.to_client_s) / 2,
            handover_s=self.handover_s,
            receive_s=self.receive_s,
            start_s=self.start_s,
            contention=self.contention,
        )

    def draft_chances(self, draft: str, told: DraftChances | None, *, asked: str) -> DraftChances:
        """What comes of drafts of a model: as `told`, else as measured.

        Args:
            asked: The option or key that names the model, with its value.
        Raises:
            ConfigError: The model was not profiled, or not what comes of its drafts.
        """
        chances = told or self.acceptance.get(draft)
        if draft not in self.drafts or chances is None:
            known = ", ".join(self.drafts) or "none"
            raise ConfigError(
                f"{asked}: the profile holds draft models {known}; run `baton profile` with pools.draft.model in its "
                "config, leave it out, or give --hardware"
            )
        return chances

    def check_model(self, model: str, *, fingerprint: str | None = None) -> None:
        """
        Raises:
            ConfigError: The profile is of another model, or of other weights of that name.
        """
        if model != self.model:
            raise ConfigError(
                f"the profile is of model {self.model!r}, not {model!r}; run `baton profile --model {model}`"
            )
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise ConfigError(
                f"the profile's fingerprint of {model} is {self.fingerprint}, the weights here have {fingerprint}; "
                f"run `baton profile --model {model}`"
            )

    def to_dict(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"version": VERSION}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Mapping) and each.name != "points":
                value = {key: _plain(one) for key, one in value.items()}
            elif isinstance(value, Contention):
                value = asdict(value)
            tree[each.name] = value
        return tree

    @classmethod
    def from_dict(cls, tree: object, source: str = "profile") -> Self:
        """
        Raises:
            ConfigError: Another version, or a field that is missing, unknown or out of range.
        """
        if isinstance(tree, Mapping) and tree.get("version") != VERSION:
            raise ConfigError(f"{source}: version {tree.get('version')!r}; this baton reads version {VERSION}; {AGAIN}")
        texts = ("model", "fingerprint", "dtype", "kv_dtype", "machine")
        numbers = (
            "token_bytes",
            "num_layers",
            "max_model_len",
            "to_worker_s",
            "to_client_s",
            "handover_s",
            "receive_s",
            "start_s",
            "num_cores",
            "state_bytes",
        )
        groups = ("latencies", "transfers", "drafts", "acceptance", "errors", "points")
        if isinstance(tree, Mapping):
            tree = {"acceptance": {}, "kv_dtype": "auto", **tree}  # files of before there was a choice have none
        checked = _tree(tree, source, ["version", *texts, *numbers, "contention", *groups])
        for name in texts:
            if not isinstance(checked[name], str):
                raise ConfigError(f"{source}: {name} {checked[name]!r} must be a text; {AGAIN}")
        for name in groups:
            if not isinstance(checked[name], Mapping):
                raise ConfigError(f"{source}: {name} {checked[name]!r} must map names to values; {AGAIN}")
        if not checked["latencies"]:
            raise ConfigError(f"{source}: latencies is empty; {AGAIN}")
        values: dict[str, Any] = {name: checked[name] for name in texts}
        values |= {name: _number(checked[name], f"{source}: {name}") for name in numbers}
        for name in ("token_bytes", "num_layers", "max_model_len", "num_cores", "state_bytes"):
            values[name] = int(values[name])
        shares = _all_numbers(checked["contention"], f"{source}: contention", Contention)
        for name in ("prompts", "decodes"):
            if shares[name] > MAX_SHARE:
                raise ConfigError(
                    f"{source}: contention.{name} {shares[name]:g} must be {MAX_SHARE:g} or less; {AGAIN}"
                )
        size = int(shares.pop("workers_per_machine"))
        if not 1 <= size <= MAX_WORKERS:
            raise ConfigError(
                f"{source}: contention.workers_per_machine {size} must be from 1 to {MAX_WORKERS}; {AGAIN}"
            )
        values["contention"] = Contention(workers_per_machine=size, **shares)
        for name in ("latencies", "drafts"):
            values[name] = {
                key: FittedLatency.from_dict(one, f"{source}: {name}.{key}") for key, one in checked[name].items()
            }
        values["acceptance"] = {
            key: DraftChances(tuple(_numbers(one, f"{source}: acceptance.{key}")))
            for key, one in checked["acceptance"].items()
        }
        values["transfers"] = {
            key: Path(**_all_numbers(one, f"{source}: transfers.{key}", Path))
            for key, one in checked["transfers"].items()
        }
        errors = {key: _all_numbers(one, f"{source}: errors.{key}", FitError) for key, one in checked["errors"].items()}
        values["errors"] = {
            key: FitError(num_points=int(one["num_points"]), median=one["median"], p90=one["p90"])
            for key, one in errors.items()
        }
        return cls(**values, points=checked["points"])

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str = "profile") -> Self:
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{source} is not JSON: {error}; {AGAIN}") from error
        return cls.from_dict(tree, source)


AGAIN = "run `baton profile` again"


def check_kv_profile(kv_dtype: str, profile: Profile) -> None:
    """Raises: ConfigError: `kv.dtype` of a config is not that of the profile's workers."""
    if kv_dtype != profile.kv_dtype:
        raise ConfigError(
            f"kv.dtype: {kv_dtype} in the config, the profile is of {profile.kv_dtype}; run `baton profile` with the "
            "config"
        )


def _plain(one: Any) -> Any:
    """For JSON."""
    if isinstance(one, FittedLatency):
        return one.to_dict()
    return list(one.by_place) if isinstance(one, DraftChances) else asdict(one)


MAX_WORKERS = 4096  # of one machine
MAX_S, MAX_SHARE, MAX_NUMBER = 600.0, 100.0, 1e15


def _tree(tree: object, where: str, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} must be a mapping with {', '.join(names)}; {AGAIN}")
    for name in names:
        if name not in tree:
            raise ConfigError(f"{where} lacks {name}; {AGAIN}")
    unknown = sorted(set(tree) - set(names))
    if unknown:
        raise ConfigError(f"{where}: {unknown[0]} is unknown; {AGAIN}")
    return tree


def _number(value: object, where: str) -> float:
    """Seconds have a limit: a step of hours is a slip of the hand, and would be simulated for as long."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where} {value!r} must be a number, 0 or more; {AGAIN}")
    most = MAX_S if where.endswith("_s") else MAX_NUMBER
    if value > most:
        raise ConfigError(f"{where} {value!r} must be {most:,.15g} or less; {AGAIN}")
    return value


def _numbers(value: object, where: str) -> list[float]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} {value!r} must be a list of numbers; {AGAIN}")
    return [_number(each, where) for each in value]


def _all_numbers(tree: object, where: str, kind: type[Path] | type[FitError] | type[Contention]) -> dict[str, float]:
    names = [each.name for each in fields(kind)]
    checked = _tree(tree, where, names)
    return {name: _number(checked[name], f"{where}.{name}") for name in names}
