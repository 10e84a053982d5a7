"""What one ingress replica counts of requests, model by model."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from cluster.contracts.finished import CANCELLED, OK, FinishedRequest
from cluster.ingress.answer import FINISH_REASONS
from cluster.ingress.telemetry.instruments import Histograms, Number, Numbers
from cluster.ingress.telemetry.label_values import ModelNames, status_of
from workers.telemetry.described import Described, counter, gauge, histogram
from workers.telemetry.histogram import Histogram

TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ITL_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)
E2E_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0)

REQUESTS = counter(
    "baton_requests_total",
    "requests",
    "Ended. status: ok, cancelled (the client left), or an error's code; model: empty where none was found",
    "model",
    "route",
    "status",
)
OPEN = gauge("baton_requests_open", "requests", "That are being answered or wait")
WAITING = gauge("baton_requests_waiting", "requests", "Open ones without a first token")
FINISHED = counter(
    "baton_choices_finished_total",
    "choices",
    "By why they ended: stop, length, abort (the client left), error",
    "model",
    "reason",
)
PROMPT_TOKENS = counter("baton_prompt_tokens_total", "tokens", "Of prompts of requests that ended", "model")
CACHED_TOKENS = counter("baton_cached_tokens_total", "tokens", "Of them found in a prefix cache", "model")
OUTPUT_TOKENS = counter("baton_output_tokens_total", "tokens", "Sent to clients", "model")
TTFT = histogram("baton_ttft_seconds", "seconds", "Time to the first token of a choice", "model")
ITL = histogram(
    "baton_itl_seconds", "seconds", "Gap between tokens of a choice: of tokens that came together, their mean", "model"
)
TPOT = histogram("baton_tpot_seconds", "seconds", "Mean gap between the tokens of a request", "model")
E2E = histogram(
    "baton_e2e_seconds",
    "seconds",
    "From a request's arrival to the end of its answer, of those that came to it",
    "model",
)
DECODE = histogram("baton_decode_seconds", "seconds", "Of that, after the first token", "model")
PROMPT_LENGTH = histogram("baton_request_prompt_tokens", "tokens", "Of one request's prompts", "model")
OUTPUT_LENGTH = histogram("baton_request_output_tokens", "tokens", "Of one request's answers", "model")
DESCRIBED: tuple[Described, ...] = (
    REQUESTS, OPEN, WAITING, FINISHED, PROMPT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS,
    TTFT, ITL, TPOT, E2E, DECODE, PROMPT_LENGTH, OUTPUT_LENGTH,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetrics:
    """What an open call counts with; one for all calls of a model."""

    ttft: Histogram
    itl: Histogram
    tpot: Histogram
    e2e: Histogram
    decode: Histogram
    prompt_length: Histogram
    output_length: Histogram
    prompt_tokens: Number
    cached_tokens: Number
    output_tokens: Number
    finished: dict[int, Number]  # by inference_pb2.FinishReason, of choices that came to their end
    aborted: Number
    failed: Number


class RequestsTotal:
    """By model, route and status, whatever comes."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def labels(self, route: str, status: str, model: str = "") -> Number:
        """`model`: as `ModelNames` shows it; empty: none was found."""
        return self._numbers.labels(model, route, status_of(status))


class RequestMetrics:
    def __init__(self) -> None:
        self._names = ModelNames()
        self._models: dict[str, ModelMetrics] = {}
        self._numbers = {one: Numbers(one) for one in DESCRIBED if one.kind != "histogram"}
        bounds = {TTFT: TTFT_S, ITL: ITL_S, TPOT: ITL_S, PROMPT_LENGTH: LENGTHS, OUTPUT_LENGTH: LENGTHS}
        histograms = [one for one in DESCRIBED if one.kind == "histogram"]
        self._histograms = {one: Histograms(one, bounds.get(one, E2E_S)) for one in histograms}
        self.requests = RequestsTotal(self._numbers[REQUESTS])
        self.open = self._numbers[OPEN].labels()
        self.waiting = self._numbers[WAITING].labels()

    def of(self, model: str) -> ModelMetrics:
        found = self._models.get(model)
        if found is None:
            shown = self._names.shown(model)
            found = self._models.get(shown) or self._make(shown)
            if shown == model:
                self._models[model] = found
        return found

    def take(self, finished: FinishedRequest, num_unfinished: int) -> None:
        """Counts a call that ended. `num_unfinished`: its choices that did not come to their end."""
        of = self.of(finished.model)
        self.requests.labels(finished.route, finished.status, self._names.shown(finished.model)).inc()
        of.prompt_tokens.inc(finished.num_prompt_tokens)
        of.cached_tokens.inc(finished.num_cached_tokens)
        of.prompt_length.observe(finished.num_prompt_tokens)
        of.output_length.observe(finished.num_output_tokens)
        (of.aborted if finished.status in (OK, CANCELLED) else of.failed).inc(num_unfinished)
        if finished.tpot_s is not None:
            of.tpot.observe(finished.tpot_s)
        if finished.status == OK:
            of.e2e.observe(finished.e2e_s)
            if finished.ttft_s is not None:
                of.decode.observe(finished.e2e_s - finished.ttft_s)

    def collect(self) -> Iterator[Metric]:
        yield from (family.collect() for family in self._numbers.values())
        yield from (family.collect() for family in self._histograms.values())

    def _make(self, model: str) -> ModelMetrics:
        numbers, histograms = self._numbers, self._histograms
        made = self._models[model] = ModelMetrics(
            ttft=histograms[TTFT].labels(model),
            itl=histograms[ITL].labels(model),
            tpot=histograms[TPOT].labels(model),
            e2e=histograms[E2E].labels(model),
            decode=histograms[DECODE].labels(model),
            prompt_length=histograms[PROMPT_LENGTH].labels(model),
            output_length=histograms[OUTPUT_LENGTH].labels(model),
            prompt_tokens=numbers[PROMPT_TOKENS].labels(model),
            cached_tokens=numbers[CACHED_TOKENS].labels(model),
            output_tokens=numbers[OUTPUT_TOKENS].labels(model),
            finished={int(code): numbers[FINISHED].labels(model, reason) for code, reason in FINISH_REASONS.items()},
            aborted=numbers[FINISHED].labels(model, "abort"),
            failed=numbers[FINISHED].labels(model, "error"),
        )
        return made
