"""One run of `baton bench` from checked options to the result; prints nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baton.errors import BatonError, ConfigError, UnavailableError
from cluster.load.backend import Backend, Clock, Sampling, ServedModel
from cluster.load.grpc_backend import GrpcBackend
from cluster.load.metrics import summarize
from cluster.load.openai_backend import OpenAIBackend
from cluster.load.options import LoadOptions, check
from cluster.load.record import Record
from cluster.load.runner import Run, Runner
from cluster.load.workload import Workload, make_workload, warmup_requests

DEFAULT_CONCURRENCY = 16
FALLBACK_VOCAB_SIZE = 1000  # every vocabulary in use has as many
MAX_WARMUP_CONCURRENCY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the caller wants to hear: a note in plain words, the number of requests, and each one's end."""

    note: Callable[[str], None]
    start: Callable[[int], None]
    advance: Callable[[Record], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`result` has the field names of `vllm bench serve`."""

    result: dict[str, Any]
    run: Run


async def measure(options: LoadOptions, progress: Progress, *, clock: Clock = time.perf_counter) -> Measurement:
    """Runs the load and waits for its end; cancelling it ends the load early and still gives a result.

    Raises:
        ConfigError: An option or a file is wrong, or requests do not fit the model.
        UnavailableError: No server answers.
        BatonError: The first warm-up request failed.
    """
    check(options)
    backend = _connect(options, clock)
    try:
        model = _choose(await backend.models(), options)
        workload = make_workload(options, max_model_len=model.max_model_len)
        sampling = _sampling(options, model)
        for note in (*workload.notes, *_notes(options, model)):
            progress.note(note)
        await _warm_up(backend, sampling, workload, options.warmup, clock)
        progress.start(len(workload.requests))
        runner = Runner(backend, sampling, clock=clock, on_done=progress.advance)
        concurrency = _concurrency(options)
        run = await runner.run(workload.requests, concurrency=concurrency)
    finally:
        await backend.close()
    described = _described(options, model, len(workload.requests), concurrency, workload.notes)
    figures = summarize(run.records, duration_s=run.duration_s, goodput=options.goodput)
    return Measurement(result=described | figures, run=run)


def _connect(options: LoadOptions, clock: Clock) -> Backend:
    if options.backend == "grpc":
        return GrpcBackend(options.address, door=options.door, clock=clock)
    is_chat = options.backend == "openai-chat"
    return OpenAIBackend(options.address, is_chat=is_chat, door=options.door, clock=clock)


def _choose(models: list[ServedModel], options: LoadOptions) -> ServedModel:
    if not models:
        raise UnavailableError(f"{options.address} serves no model yet; see `baton status`")
    for model in models:
        if options.model in ("", model.id):
            return model
    served = ", ".join(model.id for model in models)
    raise ConfigError(f"--model {options.model} is not served at {options.address}; choose one of {served}")


def _sampling(options: LoadOptions, model: ServedModel) -> Sampling:
    return Sampling(
        model=model.id,
        seed=options.seed,
        vocab_size=options.vocab_size or model.vocab_size or FALLBACK_VOCAB_SIZE,
        temperature=options.temperature,
        ignore_eos=options.has_exact_lengths if options.ignore_eos is None else options.ignore_eos,
        timeout_s=options.timeout_s,
    )


def _notes(options: LoadOptions, model: ServedModel) -> list[str]:
    notes = []
    if options.has_exact_lengths and options.backend == "openai-chat":
        notes.append("chats take no token ids: prompts are that many short words, about a token each")
    elif options.has_exact_lengths and not (options.vocab_size or model.vocab_size):
        notes.append(f"the server names no vocab_size: token ids are below {FALLBACK_VOCAB_SIZE} (see --vocab-size)")
    return notes


def _concurrency(options: LoadOptions) -> int | None:
    if options.concurrency is None and options.rate is None and options.trace is None:
        return DEFAULT_CONCURRENCY
    return options.concurrency


async def _warm_up(backend: Backend, sampling: Sampling, workload: Workload, count: int, clock: Clock) -> None:
    if not count:
        return
    runner = Runner(backend, sampling, clock=clock, on_done=lambda record: None)
    run = await runner.run(warmup_requests(workload, count), concurrency=min(count, MAX_WARMUP_CONCURRENCY))
    errors = [record.error for record in run.records if record.error]
    if errors:
        raise BatonError(f"{len(errors)} of {count} warm-up requests failed, the first with: {errors[0]}")
    if run.is_interrupted:
        raise KeyboardInterrupt


def _described(
    options: LoadOptions, model: ServedModel, num_prompts: int, concurrency: int | None, notes: tuple[str, ...]
) -> dict[str, Any]:
    is_open = concurrency is None
    return {
        "date": datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        "backend": options.backend,
        "address": options.address,
        "model_id": model.id,
        "num_prompts": num_prompts,
        "seed": options.seed,
        "max_concurrency": concurrency,
        "request_rate": options.rate if options.rate is not None else ("trace" if is_open else "inf"),
        "burstiness": (options.burstiness or 1.0) if options.rate is not None else None,
        "goodput_targets_ms": dict(options.goodput),
        "notes": list(notes),
    }


def detailed(measurement: Measurement) -> dict[str, list[Any]]:
    """The per-request lists of `--save-detailed`, one entry per request that ended, in the order sent."""
    ended = [record.detail(measurement.run.start_s) for record in measurement.run.records if record.is_done]
    return {name: [entry[name] for entry in ended] for name in (ended[0] if ended else ())}
