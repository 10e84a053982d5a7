"""What a run is asked to do, checked as a whole before anything is sent."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from baton.errors import ConfigError
from cluster.doors.client_door import ClientDoor

BACKENDS = ("openai", "openai-chat", "grpc")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Lengths in tokens; None means not given, and the default depends on the workload.

    At most one of `concurrency` (closed loop) and `rate` (open loop); a trace brings its own times.
    """

    backend: str = "openai"
    address: str = "http://127.0.0.1:8000"  # a URL, or host:port for grpc
    door: ClientDoor = field(default_factory=ClientDoor)
    model: str = ""  # empty: the first that the server lists
    concurrency: int | None = None
    rate: float | None = None  # requests/s
    burstiness: float | None = None  # shape of the gamma distribution of gaps; 1: Poisson
    num_prompts: int | None = None
    warmup: int = 0
    seed: int = 0
    input_len: int | None = None
    output_len: int | None = None
    range_ratio: float = 0.0  # lengths are uniform in [len * (1 - r), len * (1 + r)]
    prompts: Path | None = None
    trace: Path | None = None
    trace_speed: float | None = None
    limit: int | None = None  # rows read of `prompts` or `trace`
    clip: bool = False
    vocab_size: int | None = None
    ignore_eos: bool | None = None
    temperature: float = 0.0
    timeout_s: float = 600.0
    goodput: dict[str, float] = field(default_factory=dict)  # metric -> ms

    @property
    def has_exact_lengths(self) -> bool:
        """Whether prompts are token ids of a wanted length, not given texts."""
        return self.prompts is None


def check(options: LoadOptions) -> None:
    """Raises ConfigError for a value out of range, or two options that contradict each other."""
    if options.backend not in BACKENDS:
        raise ConfigError(f"--backend {options.backend} is unknown; choose one of {', '.join(BACKENDS)}")
    parts = urlsplit(options.address)
    if options.backend != "grpc" and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ConfigError(f"--url {options.address} is no URL; give one such as http://127.0.0.1:8000")
    _check_ranges(options)
    _check_pacing(options)
    _check_workload(options)
    for name, limit_ms in options.goodput.items():
        if name not in GOODPUT_METRICS or not 0 < limit_ms < math.inf:
            raise ConfigError(f"--goodput {name}:{limit_ms:g} is not a target; e.g. --goodput ttft:500 tpot:50 (ms)")


def _check_ranges(options: LoadOptions) -> None:
    for name in ("concurrency", "num_prompts", "input_len", "output_len", "limit", "vocab_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{flag(name)} {value} must be at least 1")
    for name in ("rate", "burstiness", "trace_speed", "timeout_s"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{flag(name)} {value} must be a number over 0")
    if not 0 <= options.range_ratio < 1:
        raise ConfigError(f"--range-ratio {options.range_ratio} must be in [0, 1)")
    for name in ("warmup", "seed", "temperature"):
        if not getattr(options, name) >= 0:
            raise ConfigError(f"{flag(name)} {getattr(options, name)} must be at least 0")


def _check_pacing(options: LoadOptions) -> None:
    if options.rate is not None and options.concurrency is not None:
        raise ConfigError("--rate sends by the clock, --concurrency by the answers; give one of them")
    if options.burstiness is not None and options.rate is None:
        raise ConfigError(f"--burstiness {options.burstiness:g} shapes the gaps of --rate; give --rate too")
    if options.trace is not None and options.rate is not None:
        raise ConfigError("--trace brings its own arrival times; use --trace-speed to change them, not --rate")
    if options.trace_speed is not None and (options.trace is None or options.concurrency is not None):
        raise ConfigError("--trace-speed needs --trace, and no --concurrency, which replaces the trace's times")


def _check_workload(options: LoadOptions) -> None:
    if options.prompts is not None and options.trace is not None:
        raise ConfigError("--prompts and --trace are two workloads; give one of them")
    if options.trace is not None and (options.output_len or options.num_prompts):
        raise ConfigError("--trace brings its own lengths and number; use --limit and --clip to cut them")
    if (options.trace or options.prompts) and (options.input_len or options.range_ratio):
        raise ConfigError("--input-len and --range-ratio are for synthetic prompts, not with --prompts or --trace")
    if options.limit is not None and not (options.trace or options.prompts):
        raise ConfigError("--limit cuts --prompts or --trace; use --num-prompts for synthetic prompts")
    if options.prompts is not None and (options.vocab_size or options.clip):
        raise ConfigError("--vocab-size and --clip are for token-id prompts, not with --prompts")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse_goodput(words: list[str]) -> dict[str, float]:
    """{"ttft": 500.0} of ["ttft:500"]; commas and spaces inside a word separate targets too."""
    targets: dict[str, float] = {}
    for word in " ".join(words).replace(",", " ").split():
        name, _, value = word.partition(":")
        try:
            targets[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"{word!r} is not a goodput target; e.g. --goodput ttft:500 tpot:50 (ms)") from error
    return targets
